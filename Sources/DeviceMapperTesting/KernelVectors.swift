import BlockIOTesting
import Foundation

/// What a real kernel wrote and said, see `Fixtures/README.md`.
package enum KernelVectors {
  /// What a case is about; its name begins so.
  package enum Kind: Sendable {
    case snapshots, mirrors

    fileprivate var prefixes: [String] {
      switch self {
      case .snapshots: ["snap-", "merge-"]
      case .mirrors: ["mirror-"]
      }
    }
  }

  /// One case: images, and what was done with them.
  package struct Case: Decodable, Sendable, CustomStringConvertible {
    package let name: String
    /// False where some bytes hang on timing, as on the moment the power failed.
    package let deterministic: Bool
    /// Images by the names that tables give them.
    package let devices: [String: String]
    package let images: [String: InitialImage]
    /// What each data image and each device that was read held, by SHA-256.
    package let contents: [String: [Run]]
    package let stages: [Stage]

    package var description: String { name }
  }

  package struct InitialImage: Decodable, Sendable {
    package let sectors: UInt64
    package let initial: [Run]
  }

  /// One boot, on the images as the stage before left them – a scratch one changes nothing.
  package struct Stage: Decodable, Sendable {
    package let name: String
    package let scratch: Bool?
    package let ops: [Operation]
    package let images: [String: Image]
  }

  package struct Operation: Decodable, Sendable {
    package let op: String
    package let name: String?
    package let table: [String]?
    package let readonly: Bool?
    package let device: String?
    package let label: String?
    package let first: UInt64?
    package let firsts: [UInt64]?
    package let count: UInt64?
    package let fails: Bool?
    /// Whether the write isn't waited for.
    package let background: Bool?
    package let noflush: Bool?
    package let seconds: Double?
    package let until: String?
    package let output: String?
  }

  /// An image at the end of a stage; without more it is the one of the stage before, or data.
  package struct Image: Decodable, Sendable {
    package let sha256: String
    package let runs: [Run]?
    package let store: StoreContent?
    package let log: LogContent?
  }

  /// The metadata of a COW image.
  package struct StoreContent: Decodable, Sendable {
    package var valid: UInt32
    package var chunkSize: UInt32
    /// Old and new chunk of the exceptions of each area.
    package var exceptions: [[[UInt64]]]

    enum CodingKeys: String, CodingKey {
      case valid, exceptions
      case chunkSize = "chunk_size"
    }
  }

  /// The log of a mirror: the rest of the image is as it was at first.
  package struct LogContent: Decodable, Sendable {
    package let regions: UInt64
    /// What has been written from byte 1024 on, in hexadecimal digits.
    package let bits: String
  }

  /// Sectors under a label: sector n of it holds the line `LABEL sector n` again and again.
  package struct Run: Decodable, Sendable {
    package let first: UInt64
    package let count: UInt64
    /// nil: zeros.
    package let label: String?
    /// The number that the label's first sector says.
    package let number: UInt64

    package init(_ first: UInt64, _ count: UInt64, _ label: String?, number: UInt64? = nil) {
      self.first = first
      self.count = count
      self.label = label
      self.number = number ?? first
    }

    package init(from decoder: any Decoder) throws {
      var values = try decoder.unkeyedContainer()
      first = try values.decode(UInt64.self)
      count = try values.decode(UInt64.self)
      label = try values.decodeIfPresent(String.self)
      number = values.isAtEnd ? first : try values.decode(UInt64.self)
    }

    /// What its sectors hold.
    package var bytes: [UInt8] { KernelVectors.bytes(of: [self], first..<first + count) }
  }

  /// What `sectors` hold by `runs`; zeros where there is none. Without the optimizer a loop over
  /// bytes takes a hundred times as long as one over pieces of memory: the images have millions.
  package static func bytes(of runs: [Run], _ sectors: Range<UInt64>) -> [UInt8] {
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

  /// All of a kind.
  package static func cases(_ kind: Kind) throws -> [Case] {
    let summary = try decoded(Summary.self, "vectors")
    return
      try summary.cases
      .filter { name in kind.prefixes.contains { name.hasPrefix($0) } }
      .map { try decoded(Case.self, $0) }
  }

  /// A stage of a case.
  package struct Place: CustomStringConvertible, Sendable {
    package let vectors: Case
    package let stage: Stage

    package var description: String { "\(vectors.name) \(stage.name)" }

    /// Whether the kernel was cut off in it.
    package var endsWithCrash: Bool { stage.ops.contains { $0.op == "crash" } }
  }

  /// All stages of all cases of a kind.
  package static func places(_ kind: Kind) throws -> [Place] {
    try cases(kind).flatMap { vectors in vectors.stages.map { Place(vectors: vectors, stage: $0) } }
  }

  package static func named(_ name: String) throws -> Case { try decoded(Case.self, name) }

  private static func decoded<T: Decodable>(_ type: T.Type, _ name: String) throws -> T {
    let url = try required(
      Bundle.module.url(forResource: name, withExtension: "json", subdirectory: "Fixtures"),
      "the fixture '\(name)'")
    return try JSONDecoder().decode(type, from: Data(contentsOf: url))
  }
}

extension KernelVectors.Case {
  package func stage(_ name: String) throws -> KernelVectors.Stage {
    try required(stages.first { $0.name == name }, "the stage '\(name)'")
  }

  /// The images with which the stage begins; the first one with those that were there at first.
  package func imagesBefore(_ stage: KernelVectors.Stage) throws -> [String: [UInt8]] {
    var current = images.mapValues { KernelVectors.bytes(of: $0.initial, 0..<$0.sectors) }
    for other in stages {
      if other.name == stage.name { break }
      if other.scratch != true { current = try imagesAfter(other, before: current) }
    }
    return current
  }

  /// The images that the kernel left at the end of the stage.
  package func imagesAfter(_ stage: KernelVectors.Stage) throws -> [String: [UInt8]] {
    try imagesAfter(stage, before: imagesBefore(stage))
  }

  private func imagesAfter(
    _ stage: KernelVectors.Stage, before: [String: [UInt8]]
  ) throws -> [String: [UInt8]] {
    var after = before
    for (name, image) in stage.images {
      if let runs = image.runs, let store = image.store {
        after[name] = Self.bytes(try initial(name).sectors, runs, store)
      } else if let log = image.log {
        after[name] = try Self.bytes(initial(name), log)
      } else if contents[image.sha256] != nil {
        after[name] = try bytes(sha256: image.sha256)
      }
    }
    return after
  }

  /// What the kernel read, by its SHA-256.
  package func bytes(sha256: String) throws -> [UInt8] {
    let runs = try required(contents[sha256], "the content \(sha256)")
    return KernelVectors.bytes(of: runs, 0..<runs.reduce(0) { $0 + $1.count })
  }

  private func initial(_ image: String) throws -> KernelVectors.InitialImage {
    try required(images[image], "the image '\(image)'")
  }

  /// The image of a mirror's log.
  private static func bytes(
    _ initial: KernelVectors.InitialImage, _ log: KernelVectors.LogContent
  ) throws -> [UInt8] {
    var bytes = KernelVectors.bytes(of: initial.initial, 0..<initial.sectors)
    bytes.put(0x4D69_5272 as UInt32, at: 0)
    bytes.put(2 as UInt32, at: 4)
    bytes.put(log.regions, at: 8)
    let digits = Array(log.bits)
    for index in stride(from: 0, to: digits.count, by: 2) {
      let byte = UInt8(String(digits[index...(index + 1)]), radix: 16)
      bytes[1024 + index / 2] = try required(byte, "a byte")
    }
    return bytes
  }

  /// A COW image: its data, and zeros in which the metadata lie.
  private static func bytes(
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

/// The value, which must be there.
func required<T>(_ value: T?, _ what: @autoclosure () -> String) throws(CheckFailure) -> T {
  guard let value else { throw CheckFailure("\(what()) is missing") }
  return value
}
