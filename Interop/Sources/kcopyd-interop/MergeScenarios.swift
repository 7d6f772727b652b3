import BlockIO

extension Scenario {
  /// Merges: stopped on the way, finished, and what comes after.
  static let mergeScenarios = [
    // 640 exceptions: the third area has gone, and the second one.
    Scenario(name: "merge-areas", origin: 8192) { bed in
      try await bed.takeSnapshot(chunk: 8, cow: 6000)
      try await writeScattered(bed, chunks: 640, of: 1024)
      try await bed.merge(stoppingAfterStep: 2, remaining: 256)
    },

    // A step is 8 MiB, 256 of these chunks: it ends inside the area.
    Scenario(name: "merge-inside-area", origin: 64 * 320) { bed in
      try await bed.takeSnapshot(chunk: 64, cow: 64 * 310)
      try await bed.writeSnapshot("snap v2", 64 * 200 + 30, 64 * 90)
      try await bed.writeOrigin("origin v2", 11, 64 * 180)
      for chunk in (291...299 as ClosedRange<UInt64>).reversed() {
        try await bed.writeSnapshot("snap v3", Sector(chunk * 64), 64)
      }
      try await bed.writeOrigin("origin v3", 64 * 310 + 5, 64 * 9)
      try await bed.merge(stoppingAfterStep: 1, remaining: 35)
    },

    // Written while the second area is merged, the third having been.
    Scenario(name: "merge-written", origin: 8192) { bed in
      try await bed.takeSnapshot(chunk: 8, cow: 6000)
      try await bed.writeSnapshot("snap v2", 0, 8 * 256)
      try await bed.writeOrigin("origin v2", 8 * 300, 8 * 256)
      try await bed.writeSnapshot("snap v2", 8 * 600, 8 * 100)
      try await bed.merge(
        stoppingAfterStep: 2, remaining: 256,
        meanwhile: [
          // Not merged yet; being merged; merged; never copied.
          .init(label: "merge v3", first: 8 * 20 + 3, count: 20),
          .init(label: "merge v3", first: 8 * 400 + 1, count: 9),
          .init(label: "merge v3", first: 8 * 650 + 5, count: 40),
          .init(label: "merge v3", first: 8 * 1000, count: 8),
          // From one kind into the next.
          .init(label: "merge v4", first: 8 * 250, count: 8 * 60),
          .init(label: "merge v4", first: 8 * 550, count: 8 * 60),
        ])
    },

    Scenario(name: "merged", origin: 8192) { bed in
      try await bed.takeSnapshot(chunk: 8, cow: 6000)
      try await writeScattered(bed, chunks: 300, of: 1024)
      try await bed.mergeAll()
    },

    // The store of a snapshot that was merged, written again.
    Scenario(name: "merged-reused", origin: 8192) { bed in
      try await bed.takeSnapshot(chunk: 8, cow: 6000)
      try await writeScattered(bed, chunks: 400, of: 1024)
      try await bed.mergeAll()
      try await bed.reopen()
      try await bed.writeOrigin("origin v8", 8 * 700 + 2, 8 * 90)
      try await bed.writeSnapshot("snap v8", 8 * 20 + 7, 8 * 200)
    },
  ]
}
