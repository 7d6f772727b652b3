import BlockIO
import Mirrors

extension MirrorScenario {
  /// Mirrors that were suspended in good order, wherever their recovery was.
  static let suspendedMirrors = [
    // 125 regions: the last word of the bits isn't full.
    MirrorScenario(name: "synced", sectors: 2000, region: 16) { bed in
      try bed.makeLogDevice(16)
      try await bed.resume(length: 2000)
      try await bed.write("mirror v2", 5, 1)
      try await bed.write("mirror v2", 30, 4)
      try await bed.write("mirror v2", 160, 160)
      try await bed.write("mirror v2", 1990, 10)
    },

    MirrorScenario(name: "half-synced", sectors: 2000, region: 16) { bed in
      try bed.makeLogDevice(16)
      try await bed.resume(length: 2000, stoppingAfter: 39)
    },

    // As the library does it by itself: several pieces of several regions at once.
    MirrorScenario(name: "half-synced-pieces", sectors: 2001, region: 16) { bed in
      try bed.makeLogDevice(16)
      try await bed.resume(length: 2001, stoppingAfter: 5, inFlight: 4, piece: 4)
    },

    // The last region has 12 sectors.
    MirrorScenario(name: "offsets", sectors: 1200, region: 32, offsets: [0, 24, 100]) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 1100, stoppingAfter: 9)
    },

    MirrorScenario(name: "nosync", sectors: 512, region: 16, offsets: [0, 0]) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 512, policy: .nosync)
      try await bed.write("mirror v2", 20, 3)
    },

    MirrorScenario(
      name: "nosync-by-kernel", sectors: 512, region: 16, offsets: [0, 0], policy: .nosync
    ) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 512, stoppingAfter: 12)
    },

    MirrorScenario(
      name: "sync-by-kernel", sectors: 512, region: 16, offsets: [0, 0], policy: .sync
    ) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 512)
      try await bed.write("mirror v2", 100, 30)
    },

    // The mirror ended inside a region: what that one gains counts as in sync.
    MirrorScenario(name: "grown", sectors: 2048, region: 16) { bed in
      try bed.makeLogDevice(16)
      try await bed.resume(length: 1000)
    },

    MirrorScenario(name: "grown-by-us", sectors: 2048, region: 16) { bed in
      try bed.makeLogDevice(16)
      try await bed.resume(length: 1000)
      try await bed.resume(length: 2048, stoppingAfter: 19)
    },

    MirrorScenario(name: "shrunk", sectors: 1024, length: 400, region: 8) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 1024)
      try await bed.resume(length: 400)
    },

    // What the log once said of the regions in between doesn't count any more.
    MirrorScenario(name: "shrunk-grown", sectors: 1024, region: 8) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 1024)
      try await bed.resume(length: 400)
      try await bed.write("mirror v2", 390, 10)
    },
  ]

  /// Mirrors that were cut off, or lost a leg.
  static let brokenMirrors = [
    // Writes under way are on the first leg only; others are on all legs, their bits not set yet.
    MirrorScenario(name: "dirty", sectors: 2048, region: 32) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 2048)
      try await bed.resume(length: 2048) { $0.conduct.cleaningDelay = .seconds(60) }
      try await bed.write("mirror v2", 32 * 7 + 30, 4)
      try await bed.write("mirror v2", 32 * 50, 32)
      try await bed.crash(
        during: [
          ("mirror v3", 100, 8), ("mirror v3", 32 * 40 + 3, 1), ("mirror v3", 32 * 63, 32),
          ("mirror v3", 32 * 20 + 1, 70),
        ],
        heldBy: [1, 2],
        leavingDirty: [32 * 7 + 30..<32 * 8 + 2, 32 * 50..<32 * 51])
    },

    // The first leg is the one that is behind: these writes never ended.
    MirrorScenario(name: "dirty-first-behind", sectors: 2000, region: 32) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 2000)
      try await bed.crash(
        during: [("mirror v2", 0, 2), ("mirror v2", 32 * 31, 40), ("mirror v2", 1999, 1)],
        heldBy: [0])
    },

    // The bits are in several blocks of the log, the last region has one sector.
    MirrorScenario(name: "dirty-many-regions", sectors: 19999, region: 2) { bed in
      try bed.makeLogDevice(16)
      try await bed.resume(length: 19999)
      try await bed.crash(
        during: [
          ("mirror v2", 0, 1), ("mirror v2", 5001, 300), ("mirror v2", 8190, 3),
          ("mirror v2", 16001, 2), ("mirror v2", 19998, 1),
        ],
        heldBy: [1, 2])
    },

    MirrorScenario(name: "leg-lost", sectors: 1024, region: 16) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(length: 1024)
      try await bed.resume(length: 1024, broken: (leg: 2, from: 600), goOnWithoutLeg)
      try await bed.write("mirror v2", 100, 4)
      try await bed.write("mirror v2", 700, 4, lostBy: [2])
      try await bed.write("mirror v2", 132, 4)
      try await bed.write("mirror v3", 703, 3, lostBy: [2])
      try await bed.write("mirror v2", 900, 40, lostBy: [2])
    },

    // The second half couldn't be brought into sync; written all the same.
    MirrorScenario(name: "recovery-failed", sectors: 1024, region: 16) { bed in
      try bed.makeLogDevice(8)
      try await bed.resume(
        length: 1024, recovering: 37, broken: (leg: 1, from: 600), goOnWithoutLeg)
      try await bed.write("mirror v2", 800, 30)
      try await bed.write("mirror v2", 50, 30)
    },
  ]

  /// Logs that no mirror has written yet.
  static let newLogs = [
    MirrorScenario(name: "created", sectors: 1000, region: 8) { bed in
      try bed.leaveLogToCommand(length: 1000, isInSync: false)
    },
    MirrorScenario(name: "created-in-sync", sectors: 1000, region: 8) { bed in
      try bed.leaveLogToCommand(length: 1000, isInSync: true)
    },
    // By a volume manager, and taken over by us.
    MirrorScenario(name: "volume-manager", sectors: 1000, region: 8) { bed in
      try bed.makeVolumeManagersLog(8, length: 1000, isInSync: false)
      try await bed.resume(length: 1000, stoppingAfter: 70)
    },
  ]

  /// A leg that fails is given up, and what it misses is known from the log.
  private static func goOnWithoutLeg(_ parameters: inout MirrorParameters) {
    parameters.handlesErrors = true
    parameters.keepsLog = true
    parameters.conduct.retryDelay = nil
    parameters.conduct.recoveryPiece = .zero
  }
}
