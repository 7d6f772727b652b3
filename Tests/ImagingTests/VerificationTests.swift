import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

@testable import Imaging

@Suite struct VerificationTests {
  /// Destinations that hold the source, each with one fault.
  private static func verify(
    retries: Int, _ spoil: @escaping @Sendable ([SimulatedDisk]) -> Void
  ) throws -> [VerifiedDestination] {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 5000, seed: 1, loop: loop)
      let disks = (0..<2).map {
        SimulatedDisk("dst\($0)", sectorCount: 5100, seed: UInt64(2 + $0), loop: loop)
      }
      for disk in disks { disk.fill(from: 7, source.contents) }
      spoil(disks)
      let client = try KcopydClient(on: loop)
      let regions = disks.map { IORegion($0, sector: 7, count: 5000) }
      var all = RangeSet<Sector>()
      all.insert(0..<5000)
      let results = try await Verification(
        source: IORegion(source, count: 5000), destinations: regions, readBack: regions,
        written: [all, all], retries: retries
      ).run(with: client)
      await client.destroy()
      for (result, disk) in zip(results, disks) where result.isRight {
        #expect(disk.mismatch(from: 7, with: source.contents) == nil)
      }
      return results
    }
  }

  @Test func whatIsRightIsFoundRight() throws {
    let results = try Self.verify(retries: 1) { _ in }
    let wrong = results.filter { !$0.isRight || $0.rewritten > 0 }
    #expect(wrong.isEmpty)
  }

  @Test func aWrongByteIsFoundAndMended() throws {
    let spoil: @Sendable ([SimulatedDisk]) -> Void = {
      $0[1].fill(from: 2107, [UInt8](repeating: 1, count: 512))
    }
    let found = try Self.verify(retries: 0, spoil)
    #expect(found[0].isRight)
    #expect(found[1].differing == RangeSet(2100..<2101))
    let mended = try Self.verify(retries: 1, spoil)
    #expect(mended[0].isRight && mended[1].isRight)
    #expect(mended[1].rewritten == 1)
  }

  @Test func aDiskThatLiesStaysWrong() throws {
    let results = try Self.verify(retries: 3) { disks in
      var plan = FaultPlan()
      plan.lie(.lostWrite, 100..<103)
      disks[0].plan = plan
      disks[0].fill(from: 100, [UInt8](repeating: 1, count: 3 * 512))
    }
    #expect(results[0].differing == RangeSet(93..<96))
    #expect(!results[0].isRight && results[1].isRight)
  }

  @Test func whatCannotBeReadBackIsSaid() throws {
    let results = try Self.verify(retries: 1) { disks in
      var plan = FaultPlan()
      plan.fail(.read, 4000..<4001)
      disks[1].plan = plan
    }
    #expect(results[1].unreadable.contains(3993))
    #expect(results[1].failure != nil && results[0].isRight)
  }
}
