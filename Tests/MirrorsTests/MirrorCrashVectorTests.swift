import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Testing

/// Mirrors that a real kernel left behind when the power failed, or a leg, or that have grown: what
/// their logs don't call clean is copied, and nothing else.
@Suite struct MirrorCrashVectorTests {
  /// A stage that activates what another one left, and a way to behave.
  struct Revival: CustomTestStringConvertible, Sendable {
    let place: KernelVectors.Place
    let isKernel: Bool

    var conduct: MirrorParameters.Conduct { isKernel ? .kernel : MirrorParameters.Conduct() }
    var testDescription: String { "\(place) \(isKernel ? "as the kernel" : "by default")" }

    static func all() throws -> [Revival] {
      try KernelVectors.places(.mirrors).filter { $0.stage.name == "resume" }.flatMap {
        [Revival(place: $0, isKernel: true), Revival(place: $0, isKernel: false)]
      }
    }
  }

  @Test func allRevivalsAreThere() throws {
    let names = try Revival.all().filter(\.isKernel).map(\.place.vectors.name)
    #expect(
      names == ["mirror-half", "mirror-dirty", "mirror-grown", "mirror-shrunk"]
        + ["mirror-leg-lost"])
  }

  /// Exactly the regions with a clear bit, and those that the log doesn't know, are read from the
  /// first leg and written to the others; the legs end as the kernel left them.
  @Test(arguments: try Revival.all())
  func exactlyWhatIsDirtyIsCopied(_ revival: Revival) throws {
    let (vectors, stage) = (revival.place.vectors, revival.place.stage)
    try simulate { loop in
      let before = try vectors.imagesBefore(stage)
      let machine = try VectorMachine.simulated(
        vectors, before, mirrors: revival.conduct, on: loop)
      let words = try #require(stage.ops.first?.table?.first).split(separator: " ")
      let (length, size) = (try #require(UInt64(words[1])), try #require(UInt64(words[6])))
      let dirty = Self.dirty(try #require(before["log"]), length: length, regionSize: size)
      // All but what is read by the operations, which comes behind the recovery.
      try await machine.mapper.create(
        "mirror", try #require(stage.ops.first?.table), isReadOnly: false)
      _ = try await machine.mapper.waitForMirror("mirror", until: "n == of")
      try await machine.mapper.remove("mirror")
      let expected = try vectors.imagesAfter(stage)
      #expect(try machine.differences(from: expected).isEmpty)
      for (path, image) in vectors.devices where image != "log" {
        let log = try #require(machine.disks[path] as? SimulatedDisk).log
        #expect(log.of(.read).sectors == (image == "leg0" ? dirty : RangeSet()), "\(image)")
        #expect(log.of(.write).sectors == (image == "leg0" ? RangeSet() : dirty), "\(image)")
      }
    }
  }

  /// What has to be copied by the log that a mirror finds.
  private static func dirty(
    _ log: [UInt8], length: UInt64, regionSize: UInt64
  ) -> RangeSet<Sector> {
    var dirty = RangeSet<Sector>()
    let known = log.number(at: 8, as: UInt64.self)
    for region in 0..<(length + regionSize - 1) / regionSize {
      let isClean = region < known && log[1024 + Int(region / 8)] >> (region % 8) & 1 == 1
      guard !isClean else { continue }
      let end = min(length, (region + 1) * regionSize)
      dirty.insert(Sector(region * regionSize)..<Sector(end))
    }
    return dirty
  }

  /// A mirror whose write was held when the power failed, with the leg that failed mended: that
  /// region alone is copied, and nothing of the write is lost.
  @Test(arguments: [true, false])
  func aHeldWriteSurvivesOnTheLegsThatTookIt(_ isKernel: Bool) throws {
    let vectors = try KernelVectors.named("mirror-handle-errors")
    let images = try vectors.imagesAfter(vectors.stage("lose"))
    try simulate { loop in
      let machine = try VectorMachine.simulated(
        vectors, images, mirrors: isKernel ? .kernel : MirrorParameters.Conduct(), on: loop)
      let legs = "/dev/vda 0 /dev/vdb 0 /dev/vdc 0"
      try await machine.mapper.create(
        "mirror", ["0 1024 mirror disk 2 /dev/vdd 16 3 \(legs) 1 handle_errors"],
        isReadOnly: false)
      let status = try await machine.mapper.waitForMirror("mirror", until: "n == of")
      #expect(status == "0 1024 mirror 3 254:0 254:16 254:32 64/64 1 AAA 3 disk 254:48 A")
      try await machine.mapper.remove("mirror")
      for path in ["/dev/vdb", "/dev/vdc"] {
        let disk = try #require(machine.disks[path] as? SimulatedDisk)
        #expect(disk.log.of(.write).sectors == RangeSet(688..<704))
        #expect(disk.mismatch(with: try #require(images["leg0"])) == nil)
      }
      let synced = try vectors.imagesAfter(vectors.stage("sync"))
      #expect(try machine.disk("log").image == synced["log"])
    }
  }

  /// A bit that is flipped in a log is a region that is copied or not: the check above would see
  /// it.
  @Test func aFlippedBitIsNoticed() throws {
    let vectors = try KernelVectors.named("mirror-dirty")
    let stage = try vectors.stage("resume")
    for region in [0, 3, 40, 62, 63] {
      var images = try vectors.imagesBefore(stage)
      images["log"]?[1024 + region / 8] ^= 1 << (region % 8)
      let (written, isSame) = try simulate { [images] loop in
        let machine = try VectorMachine.simulated(vectors, images, mirrors: .kernel, on: loop)
        try await machine.mapper.create(
          "mirror", try #require(stage.ops.first?.table), isReadOnly: false)
        _ = try await machine.mapper.waitForMirror("mirror", until: "n == of")
        try await machine.mapper.remove("mirror")
        let disk = try #require(machine.disks["/dev/vdb"] as? SimulatedDisk)
        let after = try machine.differences(from: vectors.imagesAfter(stage))
        return (disk.log.of(.write).sectors, after.isEmpty)
      }
      let sectors = Sector(UInt64(region) * 32)..<Sector(UInt64(region + 1) * 32)
      let wasDirty = [3, 40, 63].contains(region)
      #expect(written.contains(sectors.lowerBound) == !wasDirty, "region \(region)")
      #expect(isSame == !wasDirty, "region \(region)")
    }
  }
}
