import BlockIO
import Synchronization
import SystemPackage
import Testing

@testable import DeviceMapper

/// Requests of several targets of which one pushes its part back.
@Suite struct PushBackTests {
  /// A target whose first request fails, or is pushed back.
  private final class OnceTarget: Target {
    let sectors: Range<Sector>
    let limits: DeviceLimits? = nil
    private let isPushing: Bool
    private let isOver = Atomic<Bool>(false)

    init(_ sectors: Range<Sector>, isPushing: Bool) {
      self.sectors = sectors
      self.isPushing = isPushing
    }

    private func once() throws(IOFailure) {
      if isOver.exchange(true, ordering: .relaxed) { return }
      if isPushing { throw .pushedBack("m") }
      throw IOFailure(.write, "m", sectors, errno: .ioError)
    }

    func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
      try once()
    }
    func write(
      _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
    ) async throws(IOFailure) { try once() }
    func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
      try once()
    }
    func discard(_ sectors: Range<Sector>) async throws(IOFailure) { try once() }
    func flush() async throws(IOFailure) { try once() }
    func table(_ labels: DeviceLabels) async -> String { "" }

    struct Kind: TargetType {
      let name: String
      let version = "1.0.0"
      func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
        OnceTarget(context.sectors, isPushing: name == "pushing")
      }
    }
  }

  /// Nothing has failed for good while a part waits for another table: all of it is done again.
  @Test(arguments: ["write", "flush"]) func aRequestThatIsPushedBackInPartHasntFailed(
    operation: String
  ) async throws {
    let loop = try IOLoop.start()
    var configuration = DeviceMapper.Configuration()
    configuration.targets.add(OnceTarget.Kind(name: "pushing"))
    configuration.targets.add(OnceTarget.Kind(name: "failing"))
    let memory = MemoryDevice(sectorCount: 8)
    let mapper = DeviceMapper(
      DeviceOpener { (_, _) in memory }, configuration: configuration, on: loop)
    // The failure is the first one, and of lower sectors.
    try await mapper.create("m", table: "0 8 failing\n8 8 pushing\n16 8 pushing")
    let device = try await mapper.open("m").device
    let pages = try PagePool.lend(holding: 24)
    if operation == "write" {
      try await device.write(0..<24, from: pages.buffer.slice(0, 24), options: [])
    } else {
      try await device.flush()
    }
    // One request, though it was made twice.
    let statistics = try await mapper.info("m").statistics
    let count = operation == "write" ? statistics.writes : statistics.flushes
    #expect(count.operations == 1 && count.errors == 0)
    loop.stop()
  }
}
