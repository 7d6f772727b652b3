import BlockIO
import BlockIOTesting
import Mirrors
import SystemPackage

/// A device whose content can be looked at without a request.
package protocol ImageDisk: BlockDevice {
  /// All that it holds.
  var image: [UInt8] { get }
}

extension MemoryDevice: ImageDisk {
  package var image: [UInt8] { contents(0..<sectorCount) }
}

extension SimulatedDisk: ImageDisk {
  package var image: [UInt8] { contents }
}

/// Disks with the images of a case, and what does the operations of its stages on them.
package final class VectorMachine {
  package let vectors: KernelVectors.Case
  package let disks: [String: any ImageDisk]
  package let mapper: VectorMapper
  private let loop: IOLoop
  private let power: CrashSwitch?
  private var background: [BackgroundWrite] = []

  /// A write that isn't waited for.
  private struct BackgroundWrite {
    let path: String
    let task: Task<IOFailure?, any Error>
  }

  /// Disks in memory that hold `images`.
  package convenience init(
    _ vectors: KernelVectors.Case, _ images: [String: [UInt8]], on loop: IOLoop
  ) throws {
    var disks: [String: any ImageDisk] = [:]
    for (path, image) in vectors.devices {
      let bytes = try required(images[image], "the image '\(image)'")
      let disk = MemoryDevice(name: path, sectorCount: Sector(holding: UInt64(bytes.count)))
      disk.fill(bytes)
      disks[path] = disk
    }
    self.init(vectors, disks, nil, .kernel, on: loop)
  }

  /// Simulated disks that hold `images`: slow, logging their requests, and with a power that fails.
  /// What has been written isn't lost with it: the disks of a virtual machine are files outside.
  package static func simulated(
    _ vectors: KernelVectors.Case, _ images: [String: [UInt8]],
    mirrors conduct: MirrorParameters.Conduct, on loop: IOLoop
  ) throws -> VectorMachine {
    let power = CrashSwitch()
    var disks: [String: any ImageDisk] = [:]
    for (path, image) in vectors.devices {
      let bytes = try required(images[image], "the image '\(image)'")
      let disk = SimulatedDisk(
        path, sectorCount: Sector(holding: UInt64(bytes.count)), content: .zeroes, loop: loop,
        hasVolatileCache: false, crashSwitch: power)
      disk.fill(bytes)
      disks[path] = disk
    }
    return VectorMachine(vectors, disks, power, conduct, on: loop)
  }

  private init(
    _ vectors: KernelVectors.Case, _ disks: [String: any ImageDisk], _ power: CrashSwitch?,
    _ conduct: MirrorParameters.Conduct, on loop: IOLoop
  ) {
    self.vectors = vectors
    self.disks = disks
    self.power = power
    self.loop = loop
    mapper = VectorMapper(disks, mirrors: conduct, on: loop)
  }

  /// The disk of an image.
  package func disk(_ image: String) throws -> any ImageDisk {
    let path = vectors.devices.first { $0.value == image }?.key
    return try required(path.flatMap { disks[$0] }, "the disk of '\(image)'")
  }

  /// What images hold instead of what they should; empty when they are the same.
  package func differences(from images: [String: [UInt8]]) throws -> [String: RangeSet<Sector>] {
    var found: [String: RangeSet<Sector>] = [:]
    for (image, expected) in images {
      found[image] = ContentMismatch(try disk(image).image, expected: expected, from: 0)?.sectors
    }
    return found
  }

  // MARK: Operations

  /// Does what was done in a stage.
  ///
  /// - Returns: what was said here and not by the kernel, as `OPERATION: SAID HERE`.
  package func replay(_ stage: KernelVectors.Stage) async throws -> [String] {
    var deviations: [String] = []
    for operation in stage.ops {
      if let said = try await perform(operation), said != operation.output {
        deviations.append("\(operation.op): \(said)")
      }
    }
    for write in background {
      let failure = try await write.task.value
      try ensure(failure == nil || power?.isOff == true, "\(write.path): \(failure as Any)")
    }
    background = []
    return deviations
  }

  /// - Returns: what it says.
  private func perform(_ operation: KernelVectors.Operation) async throws -> String? {
    switch operation.op {
    case "write", "writes": try await write(operation)
    case "sha256":
      let device = try required(operation.device, "the device")
      try await expectContents(of: device, sha256: try required(operation.output, "the sum"))
    case "sleep": await loop.sleep(for: .seconds(try required(operation.seconds, "the time")))
    case "sectors_written": return try sectorsWritten(try required(operation.device, "the device"))
    case "crash":
      // The commands before took their time, too.
      await loop.sleep(for: .milliseconds(30))
      power?.turnOff()
      await mapper.abandon()
    default: return try await command(operation, try required(operation.name, "the name"))
    }
    return nil
  }

  private func command(
    _ operation: KernelVectors.Operation, _ name: String
  ) async throws -> String? {
    switch operation.op {
    case "create":
      try await mapper.create(
        name, try required(operation.table, "the table"), isReadOnly: operation.readonly == true)
    case "reload": try await mapper.reload(name, try required(operation.table, "the table"))
    case "table": return try await mapper.table(name)
    case "status": return try await mapper.status(name)
    case "suspend": try await mapper.suspend(name, isNoFlush: operation.noflush == true)
    case "resume": try await mapper.resume(name)
    case "remove": try await mapper.remove(name)
    case "wait":
      let until = try required(operation.until, "the condition")
      return until == "n == last"
        ? try await mapper.waitForMerge(name)
        : try await mapper.waitForMirror(name, until: until)
    default: throw CheckFailure("unknown operation '\(operation.op)'")
    }
    return nil
  }

  private func write(_ operation: KernelVectors.Operation) async throws {
    let path = try required(operation.device, "the device")
    let count = try required(operation.count, "the length")
    let firsts = try required(operation.firsts ?? operation.first.map { [$0] }, "the sector")
    for first in firsts {
      let run = KernelVectors.Run(first, count, operation.label)
      if operation.background == true {
        try await writeInBackground(run, to: path)
        continue
      }
      do {
        try await mapper.device(path).put(run.bytes, at: Sector(first))
        try ensure(operation.fails != true, "a write that should fail: \(path) \(first)")
      } catch let failure as IOFailure {
        try ensure(operation.fails == true && failure.errno == .ioError, "\(failure)")
      }
    }
  }

  private func writeInBackground(_ run: KernelVectors.Run, to path: String) async throws {
    let device = try await mapper.device(path)
    let task = Task(executorPreference: loop) { () async throws -> IOFailure? in
      do {
        try await device.put(run.bytes, at: Sector(run.first))
        return nil
      } catch let failure as IOFailure {
        return failure
      }
    }
    background.append(BackgroundWrite(path: path, task: task))
  }

  private func sectorsWritten(_ path: String) throws -> String {
    guard let disk = disks[path] as? SimulatedDisk else {
      throw CheckFailure("'\(path)' has no log")
    }
    let count = disk.log.of(.write).reduce(0) { $0 + ($1.sectors?.length.rawValue ?? 0) }
    return "\(count)"
  }

  /// Reads a whole device and compares it with what the kernel read.
  package func expectContents(of path: String, sha256: String) async throws {
    let device = try await mapper.device(path)
    let bytes = try await device.contents(0..<device.sectorCount)
    let expected = try vectors.bytes(sha256: sha256)
    try ensure(bytes.count == expected.count, "\(path): \(bytes.count) bytes")
    if let mismatch = ContentMismatch(bytes, expected: expected, from: 0) { throw mismatch }
  }
}
