import BlockIO
import BlockIOTesting
import Foundation
import Testing

/// Whether devices share sectors, by what is known of where they are.
@Suite struct PlacementTests {
  /// A device that holds nothing and is said to be somewhere.
  private final class Placed: BlockDevice {
    let name = "placed"
    let identity: DeviceIdentity
    let placements: [DevicePlacement]
    let sectorCount: Sector = 100
    let limits = DeviceLimits()

    init(_ number: UInt64, _ placements: [DevicePlacement] = []) {
      identity = .blockSpecial(device: number)
      self.placements = placements
    }

    func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {}
    func write(
      _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
    ) async throws(IOFailure) {}
    func flush() async throws(IOFailure) {}

    func region(_ sectors: Range<Sector>) -> IORegion {
      IORegion(self, sector: sectors.lowerBound, count: sectors.length)
    }
  }

  /// Sectors of the device of that number, in order or somewhere.
  private static func on(
    _ number: UInt64, _ sectors: Range<Sector>, isInOrder: Bool = true
  ) -> DevicePlacement {
    DevicePlacement(
      .blockSpecial(device: number), bytes: sectors.lowerBound.bytes..<sectors.upperBound.bytes,
      isInOrder: isInOrder)
  }

  @Test func aPartitionAndItsDisk() {
    let disk = Placed(1)
    let first = Placed(2, [Self.on(1, 10..<50)])
    let second = Placed(3, [Self.on(1, 50..<90)])
    #expect(!first.sharesSectors(with: second))
    #expect(first.sharesSectors(with: disk) && disk.sharesSectors(with: second))
    // Sector 5 of the partition is sector 15 of the disk.
    #expect(first.region(5..<8).overlaps(disk.region(17..<18)))
    #expect(!first.region(5..<8).overlaps(disk.region(18..<30)))
    #expect(!first.region(5..<8).overlaps(disk.region(5..<15)))
    #expect(!first.region(5..<5).overlaps(disk.region(0..<100)))
  }

  @Test func somethingOnBoth() {
    let one = Placed(2, [Self.on(9, 0..<20), Self.on(1, 10..<30)])
    let other = Placed(3, [Self.on(1, 20..<40)])
    #expect(one.sharesSectors(with: other))
    #expect(!one.region(0..<10).overlaps(other.region(0..<20)))
    #expect(one.region(0..<11).overlaps(other.region(0..<1)))
  }

  @Test func volumesOnOneDisk() {
    let disk = Placed(1)
    let one = Placed(2, [Self.on(1, 10..<90, isInOrder: false)])
    let other = Placed(3, [Self.on(1, 10..<90, isInOrder: false)])
    #expect(!one.sharesSectors(with: other))
    // Which of its sectors they are isn't known: any of them, then.
    #expect(one.region(0..<1).overlaps(disk.region(80..<90)))
    #expect(!one.region(0..<1).overlaps(disk.region(90..<100)))
    #expect(!one.sharesSectors(with: Placed(4, [Self.on(1, 0..<10)])))
  }
}

/// What is found of loop devices and partitions.
@Suite(
  .serialized,
  .enabled(if: LoopDisk.isPossible, "loop devices need root, losetup and a kernel that has them"))
struct PlacementSearchTests {
  private static func opened<R: Sendable>(
    _ paths: [String], _ body: @escaping @Sendable ([FileDevice]) throws -> R
  ) async throws -> R {
    try await onLoop(.threads) { loop in
      try body(
        try paths.map {
          try FileDevice.open(
            $0, FileDevice.Options(isWritable: false, direct: .off, isExclusive: false), on: loop)
        })
    }
  }

  @Test func aLoopDeviceAtAnOffset() async throws {
    try await withTemporaryFolder { folder in
      let file = "\(folder)/file"
      try put([], file)
      try resize(file, to: 1 << 20)
      let disk = try LoopDisk(["--offset", "65536", "--sizelimit", "131072"], of: file)
      defer { disk.detach() }
      let other = try LoopDisk(["--offset", "196608"], of: file)
      defer { other.detach() }
      try await Self.opened([disk.path, file, other.path]) { devices in
        let (disk, file, other) = (devices[0], devices[1], devices[2])
        #expect(disk.sectorCount == 256)
        #expect(disk.identity != file.identity)
        #expect(
          disk.placements == [
            DevicePlacement(file.identity, bytes: 65536..<196608, isInOrder: true)
          ])
        #expect(disk.sharesSectors(with: file) && other.sharesSectors(with: file))
        #expect(!disk.sharesSectors(with: other))
      }
    }
  }

  @Test func aPartitionOfALoopDevice() async throws {
    try await withTemporaryFolder { folder in
      let file = "\(folder)/file"
      try put([], file)
      try resize(file, to: 4 << 20)
      let disk = try LoopDisk(["-P", "--offset", "4096"], of: file)
      defer { disk.detach() }
      guard let partition = disk.addPartition(2048..<4096) else { return }
      defer { disk.removePartition() }
      try await Self.opened([partition, disk.path, file]) { devices in
        let (partition, disk, file) = (devices[0], devices[1], devices[2])
        #expect(
          partition.placements == [
            DevicePlacement(disk.identity, bytes: 1 << 20..<2 << 20, isInOrder: true),
            DevicePlacement(
              file.identity, bytes: 1 << 20 + 4096..<2 << 20 + 4096, isInOrder: true),
          ])
      }
    }
  }

  @Test func aLoopDeviceOnAnother() async throws {
    try await withTemporaryFolder { folder in
      let file = "\(folder)/file"
      try put([], file)
      try resize(file, to: 1 << 20)
      let lower = try LoopDisk(["--offset", "65536"], of: file)
      defer { lower.detach() }
      let upper = try LoopDisk(["--offset", "4096"], of: lower.path)
      defer { upper.detach() }
      try await Self.opened([upper.path, lower.path, file]) { devices in
        let (upper, lower, file) = (devices[0], devices[1], devices[2])
        #expect(
          upper.placements == [
            DevicePlacement(lower.identity, bytes: 4096..<1 << 20 - 65536, isInOrder: true),
            DevicePlacement(file.identity, bytes: 69632..<1 << 20, isInOrder: true),
          ])
        #expect(upper.sharesSectors(with: file))
      }
    }
  }
}
