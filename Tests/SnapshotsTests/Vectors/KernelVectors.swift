import BlockIO
import Foundation
import Testing

/// What a real kernel wrote and said, see `Fixtures/README.md`.
struct KernelVectors {
  /// One case: images, and what was done with them.
  struct Case: Decodable, Sendable, CustomTestStringConvertible {
    let name: String
    /// False where some bytes hang on timing, as on the moment the power failed.
    let deterministic: Bool
    /// Images by the names that tables give them.
    let devices: [String: String]
    let images: [String: InitialImage]
    /// What each data image and each device that was read held, by SHA-256.
    let contents: [String: [Run]]
    let stages: [Stage]

    var testDescription: String { name }
  }

  struct InitialImage: Decodable, Sendable {
    let sectors: UInt64
    let initial: [Run]
  }

  /// One boot, on the images as the stage before left them – a scratch one changes nothing.
  struct Stage: Decodable, Sendable {
    let name: String
    let scratch: Bool?
    let ops: [Operation]
    let images: [String: Image]
  }

  struct Operation: Decodable, Sendable {
    let op: String
    let name: String?
    let table: [String]?
    let readonly: Bool?
    let device: String?
    let label: String?
    let first: UInt64?
    let firsts: [UInt64]?
    let count: UInt64?
    let fails: Bool?
    let seconds: Double?
    let until: String?
    let output: String?
  }

  /// An image at the end of a stage; without runs it is the one of the stage before, or data.
  struct Image: Decodable, Sendable {
    let sha256: String
    let runs: [Run]?
    let store: StoreContent?
  }

  /// The metadata of a COW image.
  struct StoreContent: Decodable, Sendable {
    var valid: UInt32
    var chunkSize: UInt32
    /// Old and new chunk of the exceptions of each area.
    var exceptions: [[[UInt64]]]

    enum CodingKeys: String, CodingKey {
      case valid, exceptions
      case chunkSize = "chunk_size"
    }
  }

  /// Sectors under a label: sector n of it holds the line `LABEL sector n` again and again.
  struct Run: Decodable, Sendable {
    let first: UInt64
    let count: UInt64
    /// nil: zeros.
    let label: String?
    /// The number that the label's first sector says.
    let number: UInt64

    init(_ first: UInt64, _ count: UInt64, _ label: String?, number: UInt64? = nil) {
      self.first = first
      self.count = count
      self.label = label
      self.number = number ?? first
    }

    init(from decoder: any Decoder) throws {
      var values = try decoder.unkeyedContainer()
      first = try values.decode(UInt64.self)
      count = try values.decode(UInt64.self)
      label = try values.decodeIfPresent(String.self)
      number = values.isAtEnd ? first : try values.decode(UInt64.self)
    }

    /// What its sectors hold.
    var bytes: [UInt8] { KernelVectors.bytes(of: [self], first..<first + count) }
  }

  /// What `sectors` hold by `runs`; zeros where there is none. Without the optimizer a loop over
  /// bytes takes a hundred times as long as one over pieces of memory: the images have millions.
  static func bytes(of runs: [Run], _ sectors: Range<UInt64>) -> [UInt8] {
    let count = sectors.count * 512
    return [UInt8](unsafeUninitializedCapacity: count) { target, initialized in
      guard let base = UnsafeMutableRawPointer(target.baseAddress), count > 0 else { return }
      fill(base, count, with: "\0")
      for run in runs {
        guard let label = run.label else { continue }
        precondition(sectors.lowerBound <= run.first && run.first + run.count <= sectors.upperBound)
        for index in 0..<run.count {
          // Within `target`, by the condition above.
          let sector = base + Int(run.first - sectors.lowerBound + index) * 512
          fill(sector, 512, with: "\(label) sector \(run.number + index)\n")
        }
      }
      initialized = count
    }
  }

  /// Fills `count` bytes with a text that isn't longer, again and again.
  private static func fill(_ base: UnsafeMutableRawPointer, _ count: Int, with text: String) {
    precondition(text.utf8.count <= count)
    var length = 0
    for byte in text.utf8 {
      base.storeBytes(of: byte, toByteOffset: length, as: UInt8.self)
      length += 1
    }
    while length < count {
      // What is there already, once more: the two parts don't overlap.
      let more = min(length, count - length)
      (base + length).copyMemory(from: base, byteCount: more)
      length += more
    }
  }

  private struct Summary: Decodable {
    let cases: [String]
  }

  /// All of them.
  static func cases() throws -> [Case] {
    let summary = try decoded(Summary.self, "vectors")
    return try summary.cases.map { try decoded(Case.self, $0) }
  }

  static func named(_ name: String) throws -> Case { try decoded(Case.self, name) }

  private static func decoded<T: Decodable>(_ type: T.Type, _ name: String) throws -> T {
    let url = try #require(
      Bundle.module.url(forResource: name, withExtension: "json", subdirectory: "Fixtures"))
    return try JSONDecoder().decode(type, from: Data(contentsOf: url))
  }
}

extension KernelVectors.Case {
  func stage(_ name: String) throws -> KernelVectors.Stage {
    try #require(stages.first { $0.name == name })
  }

  /// The images with which the stage begins; the first one with those that were there at first.
  func imagesBefore(_ stage: KernelVectors.Stage) throws -> [String: [UInt8]] {
    var current = images.mapValues { KernelVectors.bytes(of: $0.initial, 0..<$0.sectors) }
    for other in stages {
      if other.name == stage.name { break }
      if other.scratch != true { current = try imagesAfter(other, before: current) }
    }
    return current
  }

  /// The images that the kernel left at the end of the stage.
  func imagesAfter(_ stage: KernelVectors.Stage) throws -> [String: [UInt8]] {
    try imagesAfter(stage, before: imagesBefore(stage))
  }

  private func imagesAfter(
    _ stage: KernelVectors.Stage, before: [String: [UInt8]]
  ) throws -> [String: [UInt8]] {
    var after = before
    for (name, image) in stage.images {
      if let runs = image.runs, let store = image.store {
        after[name] = Self.bytes(try sectors(of: name), runs, store)
      } else if contents[image.sha256] != nil {
        after[name] = try bytes(sha256: image.sha256)
      }
    }
    return after
  }

  /// What the kernel read, by its SHA-256.
  func bytes(sha256: String) throws -> [UInt8] {
    let runs = try #require(contents[sha256])
    return KernelVectors.bytes(of: runs, 0..<runs.reduce(0) { $0 + $1.count })
  }

  func sectors(of image: String) throws -> UInt64 { try #require(images[image]).sectors }

  /// A COW image: its data, and zeros in which the metadata lie.
  static func bytes(
    _ sectors: UInt64, _ runs: [KernelVectors.Run], _ store: KernelVectors.StoreContent
  ) -> [UInt8] {
    var bytes = KernelVectors.bytes(of: runs, 0..<sectors)
    bytes.putHeader(valid: store.valid, chunkSectors: store.chunkSize)
    for (area, exceptions) in store.exceptions.enumerated() {
      for (index, pair) in exceptions.enumerated() {
        bytes.putException(
          chunkSectors: store.chunkSize, area: UInt64(area), index: index, old: pair[0],
          new: pair[1])
      }
    }
    return bytes
  }
}
