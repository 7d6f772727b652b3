import BareLoops
import BlockIO
import Foundation
import Snapshots

/// Writes of 4 KiB to scattered chunks of an origin, with and without snapshots.
struct WriteBench {
  let place: Place
  let depth: Int
  let chunks: Int
  let chunkSectors: Sector
  let loop: IOLoop

  private static let snapshotCounts = [1, 4, 16]
  private static let write: Sector = 8

  struct Result {
    let title: String
    var bare: [Double] = []
    /// By number of snapshots.
    var first: [Int: [Double]] = [:]
    var second: [Int: [Double]] = [:]
    /// First writes with plain calls, by one thread and by one for each COW file.
    var plain: [Int: [Double]] = [:]
    var plainThreads: [Int: [Double]] = [:]

    /// Microseconds per write, and the ratios that count.
    var text: String {
      var lines = [title, "  bare          \(number(middle(of: bare))) µs"]
      let one = middle(of: first[1] ?? [])
      for count in first.keys.sorted() {
        let firsts = middle(of: first[count] ?? [])
        let seconds = middle(of: second[count] ?? [])
        lines.append(
          "  \(pad(count)) snapshots  first \(number(firsts)) µs (\(number(firsts / one)) × one)"
            + "  second \(number(seconds)) µs (speed \(number(middle(of: bare) / seconds)) of bare)"
        )
        guard let plain = plain[count], let threads = plainThreads[count] else { continue }
        let times = [middle(of: plain), middle(of: threads)]
        lines.append(
          "                first with plain calls \(number(times[0])) µs, a thread per COW file "
            + "\(number(times[1])) µs (\(number(firsts / times[0])), \(number(firsts / times[1])) × these)"
        )
      }
      return lines.joined(separator: "\n") + "\n"
    }

    private func pad(_ count: Int) -> String { count < 10 ? " \(count)" : "\(count)" }
    private func number(_ value: Double) -> String { String(format: "%.2f", value) }
  }

  func run(rounds: Int) async throws -> Result {
    var result = Result(title: "\(place.name), \(depth) at a time")
    let scratch = try Scratch(in: place.folder)
    let size = chunkSectors * UInt64(chunks)
    let disk = try place.device("origin", size, in: scratch, loop)
    let cows = try (0..<16).map {
      try place.device("cow\($0)", size + chunkSectors * 64, in: scratch, loop)
    }
    // The first round isn't counted.
    for round in 0...rounds {
      let bare = try await time(disk, seed: UInt64(round))
      if round > 0 { result.bare.append(bare) }
      for count in Self.snapshotCounts {
        let origin = try Origin(disk, on: loop)
        for cow in cows.prefix(count) {
          _ = try await SnapshotStore.create(
            on: cow, for: disk, chunkSize: ChunkSize(chunkSectors), overwrites: true, on: loop)
          try await origin.addSnapshot(cow: cow).resume()
        }
        try await disk.flush()
        let first = try await time(origin.device, seed: UInt64(round))
        let second = try await time(origin.device, seed: UInt64(round))
        if round > 0 {
          result.first[count, default: []].append(first)
          result.second[count, default: []].append(second)
        }
        guard depth == 1, let direct = place.direct else { continue }
        for hasThreads in [false, true] {
          let time = try plainTime(
            scratch, count, isDirect: direct == .on, hasThreads: hasThreads, seed: UInt64(round))
          guard round > 0 else { continue }
          if hasThreads {
            result.plainThreads[count, default: []].append(time)
          } else {
            result.plain[count, default: []].append(time)
          }
        }
      }
    }
    return result
  }

  private func order(_ seed: UInt64) -> [UInt64] {
    var generator = Generator(state: seed)
    return (0..<UInt64(chunks)).shuffled(using: &generator)
  }

  /// The same first writes with plain calls, nothing around them: microseconds per write.
  private func plainTime(
    _ scratch: Scratch, _ count: Int, isDirect: Bool, hasThreads: Bool, seed: UInt64
  ) throws -> Double {
    let flags = O_RDWR | O_CLOEXEC | (isDirect ? bare_direct_flag() : 0)
    let files = (["origin"] + (0..<count).map { "cow\($0)" }).map {
      open("\(scratch.path)/\($0)", flags)
    }
    defer { for file in files where file >= 0 { close(file) } }
    guard files.allSatisfy({ $0 >= 0 }) else { throw CocoaError(.fileNoSuchFile) }
    let order = order(seed)
    let result = Array(files.dropFirst()).withUnsafeBufferPointer { cows in
      order.withUnsafeBufferPointer { order in
        var work = bare_first_writes(
          origin: files[0], cows: cows.baseAddress, cow_count: UInt32(count),
          order: order.baseAddress, count: UInt64(chunks), chunk: chunkSectors.bytes,
          thread_per_cow: hasThreads)
        return bare_first_writes_run(&work)
      }
    }
    guard result.error == 0 else {
      throw CocoaError(.fileWriteUnknown, userInfo: ["errno": result.error])
    }
    return Double(result.elapsed_ns) / 1000 / Double(order.count)
  }

  /// Writes to every chunk once, `depth` at a time: microseconds per write.
  private func time(_ device: any BlockDevice, seed: UInt64) async throws -> Double {
    let order = order(seed)
    let pages = try PagePool.lend(holding: Self.write)
    let buffer = pages.buffer.slice(.zero, Self.write)
    let share = (order.count + depth - 1) / depth
    let clock = ContinuousClock()
    let start = clock.now
    try await withThrowingTaskGroup { group in
      for lane in 0..<depth {
        let mine = order.dropFirst(lane * share).prefix(share)
        group.addTask(executorPreference: loop) {
          for chunk in mine {
            let first = chunkSectors * chunk + 8
            try await device.write(first..<first + Self.write, from: buffer)
          }
        }
      }
      try await group.waitForAll()
    }
    let elapsed = start.duration(to: clock.now)
    let seconds = Double(elapsed.components.attoseconds) / 1e18 + Double(elapsed.components.seconds)
    return seconds * 1e6 / Double(order.count)
  }
}

/// The same numbers each time.
struct Generator: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var value = state
    value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
    return value ^ value >> 31
  }
}
