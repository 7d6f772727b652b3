import BlockIO
import BlockIOTesting
import Snapshots
import SystemPackage
import Testing

/// Disks with the images of a case, and what does the operations of its stages on them.
final class VectorMachine {
  let vectors: KernelVectors.Case
  let disks: [String: MemoryDevice]
  let mapper: DeviceMapper
  private let loop: IOLoop

  /// Disks that hold `images`.
  init(_ vectors: KernelVectors.Case, _ images: [String: [UInt8]], on loop: IOLoop) async throws {
    self.vectors = vectors
    self.loop = loop
    var disks: [String: MemoryDevice] = [:]
    for (path, image) in vectors.devices {
      let bytes = try #require(images[image])
      let disk = MemoryDevice(name: path, sectorCount: Sector(holding: UInt64(bytes.count)))
      try await disk.put(bytes, at: 0)
      disks[path] = disk
    }
    self.disks = disks
    mapper = DeviceMapper(disks, on: loop)
  }

  /// The disk of an image.
  func disk(_ image: String) throws -> MemoryDevice {
    let path = try #require(vectors.devices.first { $0.value == image }).key
    return try #require(disks[path])
  }

  /// What images hold instead of what they should; empty when they are the same.
  func differences(from images: [String: [UInt8]]) throws -> [String: RangeSet<Sector>] {
    var found: [String: RangeSet<Sector>] = [:]
    for (image, expected) in images {
      let disk = try disk(image)
      let bytes = disk.image
      found[image] = ContentMismatch(bytes, expected: expected, from: 0)?.sectors
    }
    return found
  }

  // MARK: Operations

  /// Does what was done in a stage and compares what the kernel said with what is said here.
  func replay(_ stage: KernelVectors.Stage) async throws {
    for operation in stage.ops { try await perform(operation) }
  }

  private func perform(_ operation: KernelVectors.Operation) async throws {
    switch operation.op {
    case "write", "writes": try await write(operation)
    case "sha256":
      try await expectContents(
        of: try #require(operation.device), sha256: try #require(operation.output))
    case "sleep": await loop.sleep(for: .seconds(try #require(operation.seconds)))
    default: try await command(operation, try #require(operation.name))
    }
  }

  private func command(_ operation: KernelVectors.Operation, _ name: String) async throws {
    switch operation.op {
    case "create":
      try await mapper.create(
        name, try #require(operation.table), isReadOnly: operation.readonly == true)
    case "table": #expect(try await mapper.table(name) == operation.output)
    case "status": #expect(try await mapper.status(name) == operation.output)
    case "suspend": try await mapper.suspend(name)
    case "resume": try await mapper.resume(name)
    case "remove": try await mapper.remove(name)
    case "wait":
      #expect(operation.until == "n == last")
      #expect(try await mapper.waitForMerge(name) == operation.output)
    default: throw CheckFailure("unknown operation '\(operation.op)'")
    }
  }

  private func write(_ operation: KernelVectors.Operation) async throws {
    let path = try #require(operation.device)
    let device = try mapper.device(path)
    let count = try #require(operation.count)
    let firsts = try #require(operation.firsts ?? operation.first.map { [$0] })
    for first in firsts {
      let run = KernelVectors.Run(first, count, operation.label)
      do {
        try await device.put(run.bytes, at: Sector(first))
        #expect(operation.fails != true, "a write that should fail: \(path) \(first)")
      } catch let failure as IOFailure {
        #expect(operation.fails == true, "\(failure)")
        #expect(failure.errno == .ioError)
      }
    }
  }

  /// Reads a whole device and compares it with what the kernel read.
  func expectContents(of path: String, sha256: String) async throws {
    let device = try mapper.device(path)
    let bytes = try await device.contents(0..<device.sectorCount)
    let expected = try vectors.bytes(sha256: sha256)
    let mismatch =
      bytes.count == expected.count
      ? ContentMismatch(bytes, expected: expected, from: 0) : nil
    #expect(bytes.count == expected.count)
    #expect(mismatch == nil, "\(vectors.name) \(path)")
  }
}
