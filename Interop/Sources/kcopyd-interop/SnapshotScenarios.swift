import BlockIO
import Snapshots

extension Scenario {
  /// Snapshots taken and written.
  static let snapshotScenarios = [
    Scenario(name: "fresh", origin: 512) { bed in
      try await bed.takeSnapshot(chunk: 16, cow: 128)
    },

    // Whole and part chunks on both sides, over several chunks too.
    Scenario(name: "one-area", origin: 2048) { bed in
      try await bed.takeSnapshot(chunk: 16, cow: 1024)
      try await bed.writeOrigin("origin v2", 0, 16)
      try await bed.writeOrigin("origin v2", 35, 2)
      try await bed.writeOrigin("origin v3", 0, 16)
      try await bed.writeSnapshot("snap v2", 80, 16)
      try await bed.writeSnapshot("snap v2", 127, 1)
      try await bed.writeSnapshot("snap v3", 32, 1)
      try await bed.writeOrigin("origin v2", 1000, 48)
      try await bed.writeSnapshot("snap v2", 1500, 30)
      try await bed.writeOrigin("origin v2", 2047, 1)
    },

    Scenario(name: "three-areas", origin: 8192) { bed in
      try await bed.takeSnapshot(chunk: 8, cow: 6000)
      try await writeScattered(bed, chunks: 640, of: 1024)
    },

    // 256 exceptions fill the first area: the second one is cleared although none is in it.
    Scenario(name: "full-area", origin: 4096) { bed in
      try await bed.takeSnapshot(chunk: 8, cow: 2200)
      try await bed.writeOrigin("origin v2", 0, 8 * 200)
      try await bed.writeSnapshot("snap v2", 8 * 300, 8 * 56)
    },

    // The last chunk has 81 sectors.
    Scenario(name: "begun-chunk", origin: 2001) { bed in
      try await bed.takeSnapshot(chunk: 128, cow: 1024)
      try await bed.writeOrigin("origin v2", 1990, 11)
      try await bed.writeSnapshot("snap v2", 1999, 2)
      try await bed.writeOrigin("origin v2", 600, 1)
      try await bed.writeSnapshot("snap v2", 128, 128)
    },

    Scenario(name: "two-snapshots", origin: 1024, isMergedByKernel: false) { bed in
      try await bed.takeSnapshot(chunk: 8, cow: 600)
      try await bed.writeOrigin("origin v2", 10, 2)
      try await bed.writeSnapshot("snap8 v2", 900, 20)
      try await bed.takeSnapshot(chunk: 32, cow: 800)
      try await bed.writeOrigin("origin v3", 10, 1)
      try await bed.writeOrigin("origin v3", 500, 100)
      try await bed.writeSnapshot("snap8 v3", 64, 8)
      try await bed.writeSnapshot("snap32 v2", 70, 3, snapshot: 1)
      try await bed.writeOrigin("origin v4", 64, 32)
    },

    // Room for five chunks, and a sixth one is needed.
    Scenario(name: "invalid", origin: 512, isMergedByKernel: false) { bed in
      try await bed.takeSnapshot(chunk: 16, cow: 7 * 16 + 7)
      for chunk in [0, 3, 6, 10, 20] as [UInt64] {
        try await bed.writeOrigin("origin v2", Sector(chunk * 16), 4)
      }
      try await bed.writeOriginLosingSnapshot("origin v2", 400, 1)
      try await bed.writeOrigin("origin v3", 200, 30)
    },

    Scenario(name: "overflow", origin: 512) { bed in
      try await bed.takeSnapshot(chunk: 16, cow: 7 * 16) { $0.store = .persistentWithOverflow }
      for chunk in [0, 3, 6, 10, 20] as [UInt64] {
        try await bed.writeSnapshot("snap v2", Sector(chunk * 16), 16)
      }
      try await bed.writeSnapshotInVain("snap v3", 400, 1)
      try await bed.writeSnapshotInVain("snap v3", 0, 1)
      try await bed.writeOrigin("origin v2", 50, 4)
    },

    // Made larger twice.
    Scenario(name: "grown", origin: 4096) { bed in
      try await bed.takeSnapshot(chunk: 16, cow: 160) { $0.growthLimit = 1600 }
      try await bed.writeOrigin("origin v2", 5, 16 * 50)
      for chunk in 100..<140 as Range<UInt64> {
        try await bed.writeSnapshot("snap v2", Sector(chunk * 16 + 3), 7)
      }
      guard try bed.folder.sectorCount(of: "cow.img") == 1600 else {
        throw Unexpected("the COW device should have grown")
      }
    },

    // Carried on with in the middle of the second area.
    Scenario(name: "reopened", origin: 8192) { bed in
      try await bed.takeSnapshot(chunk: 8, cow: 6000)
      try await writeScattered(bed, chunks: 300, of: 1024)
      try await bed.reopen()
      try await bed.writeOrigin("origin v7", 4, 8 * 150)
      try await bed.reopen()
      try await bed.writeSnapshot("snap v7", 8 * 500 + 1, 8 * 200)
    },
  ]

  /// Writes to chunks in no order, a quarter each: the whole chunk on the origin, on the snapshot,
  /// a part on the origin, on the snapshot. Then into some that have been copied by then.
  static func writeScattered(_ bed: TestBed, chunks count: Int, of all: UInt64) async throws {
    var shuffler = Shuffler(seed: 8)
    let chunks = (0..<all).shuffled(using: &shuffler).prefix(count).map { Sector($0 * 8) }
    for (index, start) in chunks.enumerated() {
      switch index * 4 / count {
      case 0: try await bed.writeOrigin("origin v2", start, 8)
      case 1: try await bed.writeSnapshot("snap v2", start, 8)
      case 2: try await bed.writeOrigin("origin v2", start + 2, 3)
      default: try await bed.writeSnapshot("snap v2", start + 1, 5)
      }
    }
    for start in chunks.prefix(count / 6) { try await bed.writeSnapshot("snap v3", start + 7, 1) }
  }
}
