#if os(Linux)
  import BlockIOTesting
  import Foundation
  import SystemPackage
  import Testing

  @testable import BlockIO

  @Suite struct RingBackendTests {
    /// More requests than the ring holds wait for their turn, and none gets lost.
    @Test func requestsBeyondTheDepthWait() async throws {
      let path = FileManager.default.temporaryDirectory
        .appendingPathComponent("kcopyd-ring-\(UUID().uuidString)").path
      let sectors = Sector.zero..<800
      try Data(Pattern("file").bytes(sectors)).write(to: URL(fileURLWithPath: path))
      defer { unlink(path) }
      let backend: RingBackend
      do {
        backend = try RingBackend(depth: 4)
      } catch {
        print("skipped: io_uring is not available (\(error))")
        return
      }
      let mismatches = try IOLoop.run(on: backend) { loop in
        await Self.readAll(path, sectors, on: loop)
      }
      #expect(mismatches == [] || mismatches == ["no O_DIRECT"])
    }

    /// A loop that sleeps in the ring is woken by other threads and by time, again and again.
    @Test func othersWakeTheRing() async throws {
      let loop: IOLoop
      do {
        loop = try IOLoop.start(backend: .uring)
      } catch {
        print("skipped: io_uring is not available (\(error))")
        return
      }
      var sum = 0
      for number in 1...1000 {
        sum += await Task.detached { await loop.blocking { number } }.value
        if number % 100 == 0 {
          await Task(executorPreference: loop) { await loop.sleep(for: .microseconds(50)) }.value
        }
      }
      #expect(sum == 500_500)
      loop.stop()
    }

    private static func readAll(
      _ path: String, _ sectors: Range<Sector>, on loop: IOLoop
    ) async -> [String] {
      guard
        let file = try? FileDevice.open(path, .init(isWritable: false, direct: .on), on: loop),
        let pool = try? PagePool(pageCount: 100)
      else { return ["no O_DIRECT"] }
      return await withTaskGroup(of: String?.self) { group in
        for start in stride(from: 0, to: sectors.upperBound.rawValue, by: 8) {
          group.addTask {
            let pages = await pool.take(1)
            do {
              try await file.read(Sector(start)..<Sector(start + 8), into: pages.buffer)
            } catch {
              return "\(error)"
            }
            return Pattern("file").mismatch(pages.buffer, from: Sector(start)).map { "\($0)" }
          }
        }
        return await group.reduce(into: []) { if let text = $1 { $0.append(text) } }
      }
    }
  }
#endif
