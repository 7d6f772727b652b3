import BlockIO
import DeviceMapper
import Metrics

/// Reads the counters of devices and exports when somebody asks for the page; on the way of a
/// request there is nothing but counters of its own loop.
struct MetricsCollector: Sendable {
  let keeper: DeviceKeeper

  /// The whole page. Its figures are those of this moment: a device that has gone has none.
  func page() async -> String {
    let registry = PrometheusRegistry()
    for info in await keeper.mapper.infos() { devices(info, registry) }
    for (name, status) in await keeper.statuses() { targets(name, status, registry) }
    await keeper.exports.collect(into: registry)
    registry.gauge("kcopyd_devices_missing", [], Double(await keeper.problems.count))
    return registry.render()
  }

  private func devices(_ info: DeviceInfo, _ registry: PrometheusRegistry) {
    let device = ("device", info.name)
    let kinds: [(String, DeviceStatistics.Count)] = [
      ("read", info.statistics.reads), ("write", info.statistics.writes),
      ("discard", info.statistics.discards), ("flush", info.statistics.flushes),
    ]
    for (kind, count) in kinds {
      let labels = [device, ("operation", kind)]
      registry.counter("kcopyd_device_operations_total", labels, Double(count.operations))
      registry.counter("kcopyd_device_bytes_total", labels, Double(count.bytes))
      registry.counter("kcopyd_device_errors_total", labels, Double(count.errors))
      registry.counter(
        "kcopyd_device_seconds_total", labels, Double(count.nanoseconds) / 1e9)
    }
    registry.gauge("kcopyd_device_queue", [device], Double(info.statistics.inFlight))
    registry.gauge("kcopyd_device_deferred", [device], Double(info.statistics.deferred))
    registry.gauge("kcopyd_device_suspended", [device], info.isSuspended ? 1 : 0)
    registry.gauge("kcopyd_device_bytes", [device], Double(info.sectorCount.bytes))
  }

  /// How full COW devices are, and how far legs are in sync.
  private func targets(_ name: String, _ status: [String], _ registry: PrometheusRegistry) {
    let words = status.first?.split(separator: " ").dropFirst(2).map(String.init) ?? []
    guard let target = words.first else { return }
    let rest = Array(words.dropFirst())
    let device = ("device", name)
    switch target {
    case "snapshot", "snapshot-merge":
      guard let fill = CowFill(rest) else {
        return registry.gauge("kcopyd_snapshot_valid", [device], 0)
      }
      registry.gauge("kcopyd_snapshot_valid", [device], 1)
      registry.gauge("kcopyd_cow_used_bytes", [device], Double(fill.used * Sector.byteCount))
      registry.gauge("kcopyd_cow_bytes", [device], Double(fill.total * Sector.byteCount))
    case "mirror":
      guard let mirror = MirrorProgress(rest) else { return }
      registry.gauge(
        "kcopyd_mirror_sync_percent", [device],
        mirror.total == 0 ? 100 : 100 * Double(mirror.inSync) / Double(mirror.total))
      for (leg, letter) in zip(mirror.legs, mirror.letters) {
        registry.gauge("kcopyd_leg_alive", [device, ("leg", leg)], letter == "A" ? 1 : 0)
      }
    default: break
    }
  }
}

/// The `used/total metadata` of a snapshot's status, in sectors.
struct CowFill: Hashable, Sendable {
  var used: UInt64
  var total: UInt64
  var metadata: UInt64

  init?(_ words: [String]) {
    guard words.count >= 2, let slash = words[0].firstIndex(of: "/"),
      let used = UInt64(words[0][..<slash]),
      let total = UInt64(words[0][words[0].index(after: slash)...]),
      let metadata = UInt64(words[1]), used >= metadata
    else { return nil }
    self.used = used
    self.total = total
    self.metadata = metadata
  }
}

extension DeviceKeeper {
  /// The status lines of all devices.
  func statuses() async -> [(name: String, lines: [String])] {
    var all: [(name: String, lines: [String])] = []
    for name in await mapper.list() {
      if let lines = try? await mapper.status(name) { all.append((name, lines)) }
    }
    return all
  }
}
