import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

/// The devices of the tests can become larger.
@Suite struct GrowthTests {
  @Test func memoryGrows() throws {
    try simulate { loop in
      let device = MemoryDevice(sectorCount: 8)
      try await device.put("old", 0..<8)
      try await device.grow(to: 12)
      try await device.grow(to: 4)
      #expect(device.sectorCount == 12)
      #expect(try await device.contents(0..<8) == patterns(("old", 0..<8)))
      #expect(try await device.contents(8..<12).allSatisfy { $0 == 0 })
    }
  }

  @Test func aDiskGrows() throws {
    try simulate { loop in
      let power = CrashSwitch()
      let disk = SimulatedDisk("disk", sectorCount: 8, loop: loop, crashSwitch: power)
      try await disk.grow(to: 12)
      #expect(disk.sectorCount == 12)
      power.turnOff()
      power.turnOn()
      #expect(disk.sectorCount == 12)
      #expect(try await disk.contents(0..<8) == patterns(("disk", 0..<8)))
      #expect(try await disk.contents(8..<12).allSatisfy { $0 == 0 })
    }
  }

  @Test func aDiskIsEnlargedBehindItsUsers() throws {
    try simulate { loop in
      let disk = SimulatedDisk("disk", sectorCount: 8, loop: loop)
      disk.enlarge(to: 12)
      #expect(disk.sectorCount == 8)
      await #expect(throws: IOFailure.self) { try await disk.contents(8..<12) }
      try await disk.refreshSize()
      #expect(disk.sectorCount == 12)
    }
  }

  @Test func aDiskRefusesToGrow() throws {
    try simulate { loop in
      var plan = FaultPlan()
      plan.failGrowing()
      let disk = SimulatedDisk("disk", sectorCount: 8, loop: loop, plan: plan)
      await #expect(throws: IOFailure.self) { try await disk.grow(to: 12) }
      #expect(disk.sectorCount == 8)
    }
  }
}
