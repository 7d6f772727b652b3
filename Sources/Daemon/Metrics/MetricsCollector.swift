import BlockIO
import DeviceMapper
import Metrics
import Mirrors
import Snapshots

/// Reads the counters of devices, legs and exports when somebody asks for the page; on the way of a
/// request there is nothing but counters of its own loop.
struct MetricsCollector: Sendable {
  let keeper: DeviceKeeper

  /// The whole page. Its figures are those of this moment: a device that has gone has none.
  func page() async -> String {
    let registry = PrometheusRegistry()
    for info in await keeper.mapper.infos() {
      note(info, registry)
      // It may have gone meanwhile.
      for (sectors, figures) in (try? await keeper.mapper.figures(info.name)) ?? [] {
        let labels = [("device", info.name), ("start", "\(sectors.lowerBound.rawValue)")]
        note(figures, labels, registry)
      }
    }
    for (operation, progress) in await keeper.operations {
      Self.note(operation, progress, registry)
    }
    await keeper.exports.collect(into: registry)
    registry.gauge("kcopyd_devices_missing", [], Double(await keeper.problems.count))
    return registry.render()
  }

  private func note(_ info: DeviceInfo, _ registry: PrometheusRegistry) {
    let device = [("device", info.name)]
    let statistics = info.statistics
    for (kind, count) in [
      ("read", statistics.reads), ("write", statistics.writes), ("discard", statistics.discards),
      ("flush", statistics.flushes),
    ] {
      note(count, "kcopyd_device", device + [("operation", kind)], registry)
    }
    registry.gauge("kcopyd_device_queue", device, Double(statistics.inFlight))
    registry.gauge("kcopyd_device_deferred", device, Double(statistics.deferred))
    registry.gauge("kcopyd_device_suspended", device, info.isSuspended ? 1 : 0)
    registry.gauge("kcopyd_device_bytes", device, Double(info.sectorCount.bytes))
  }

  private func note(
    _ count: RequestCount, _ prefix: String, _ labels: [(String, String)],
    _ registry: PrometheusRegistry
  ) {
    registry.counter("\(prefix)_operations_total", labels, Double(count.operations))
    registry.counter("\(prefix)_bytes_total", labels, Double(count.bytes))
    registry.counter("\(prefix)_errors_total", labels, Double(count.errors))
    registry.counter("\(prefix)_seconds_total", labels, Double(count.nanoseconds) / 1e9)
  }

  /// How full COW devices are, how far mirrors are in sync, and what has been done with their legs.
  private func note(
    _ figures: TargetFigures, _ labels: [(String, String)], _ registry: PrometheusRegistry
  ) {
    switch figures {
    case .snapshot(let status, let cow):
      let labels = labels + [("cow", cow)]
      registry.gauge("kcopyd_snapshot_valid", labels, status.condition == .valid ? 1 : 0)
      registry.gauge("kcopyd_snapshot_chunks", labels, Double(status.exceptions))
      registry.gauge("kcopyd_snapshot_held", labels, Double(status.held))
      registry.gauge("kcopyd_cow_used_bytes", labels, Double(status.allocated.bytes))
      registry.gauge("kcopyd_cow_metadata_bytes", labels, Double(status.metadata.bytes))
      registry.gauge("kcopyd_cow_bytes", labels, Double(status.total.bytes))
    case .mirror(let status, let legs):
      registry.gauge(
        "kcopyd_mirror_sync_percent", labels, Self.percent(status.regionsInSync, status.regionCount)
      )
      registry.gauge("kcopyd_mirror_held", labels, Double(status.held))
      for (leg, (name, statistics)) in zip(status.legs, legs) {
        let labels = labels + [("leg", name)]
        for (letter, state) in Self.legStates {
          registry.gauge(
            "kcopyd_leg_state", labels + [("state", state)], leg.letter == letter ? 1 : 0)
        }
        for kind in LegStatistics.Kind.allCases {
          note(statistics[kind], "kcopyd_leg", labels + [("operation", kind.rawValue)], registry)
        }
        registry.gauge("kcopyd_leg_queue", labels, Double(statistics.inFlight))
      }
    }
  }

  /// The letters of a mirror's status, and what they mean.
  private static let legStates: [(Character, String)] = [
    ("A", "alive"), ("F", "flush_failed"), ("D", "write_failed"), ("S", "sync_failed"),
    ("R", "read_failed"),
  ]

  /// How far something long is, from where to where.
  static func note(
    _ operation: SavedOperation, _ progress: OperationProgress?, _ registry: PrometheusRegistry
  ) {
    let labels = [
      ("device", operation.device), ("operation", operation.kind.rawValue),
      ("destination", operation.to?.device ?? operation.device),
    ]
    registry.gauge("kcopyd_operation_running", labels, progress == nil ? 0 : 1)
    guard let progress else { return }
    registry.gauge("kcopyd_operation_percent", labels, percent(progress.done, progress.total))
  }

  private static func percent(_ done: UInt64, _ total: UInt64) -> Double {
    total == 0 ? 100 : 100 * Double(done) / Double(total)
  }
}

extension DeviceKeeper {
  /// What goes on over restarts, and how far it is; nil: it has stopped, or only just begun.
  var operations: [(operation: SavedOperation, progress: OperationProgress?)] {
    state.operations.map { ($0, progress[$0.device]) }
  }
}
