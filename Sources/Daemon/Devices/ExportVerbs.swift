import BlockIO
import DeviceMapper

// What is served over NBD.

extension DeviceKeeper {
  func export(
    _ name: String, as export: String?, isReadOnly: Bool
  ) async throws(ControlFailure) -> String {
    try await exclusively { () throws(ControlFailure) in
      let device = try known(name)
      try checkThere(name)
      let record = SavedExport(
        export: export ?? name, device: name, isReadOnly: isReadOnly || device.isReadOnly)
      if let other = state.exports.first(where: { $0.export == record.export }) {
        throw .refused("there is an export '\(record.export)' already, of '\(other.device)'")
      }
      try await exports.start(record)
      var next = state
      next.exports.append(record)
      do throws(ControlFailure) {
        try await save(next)
      } catch {
        await exports.stop(record.export)
        throw error
      }
      let uris = await exports.uris(of: record.export)
      return uris.isEmpty
        ? "exported '\(record.export)', but no place to serve it at was given to kcopyd serve"
        : uris.joined(separator: "\n")
    }
  }

  func unexport(_ export: String) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      guard state.exports.contains(where: { $0.export == export }) else {
        throw .refused("there is no export '\(export)'; kcopyd exports shows those there are")
      }
      var next = state
      next.exports.removeAll { $0.export == export }
      // Saved first: what a client was told to be over must not come back.
      try await save(next)
      await exports.stop(export)
    }
  }

  func exportSummaries() async -> [ExportSummary] {
    var summaries: [ExportSummary] = []
    for record in state.exports.sorted(by: { $0.export < $1.export }) {
      let size = (try? await mapper.info(record.device))?.sectorCount.bytes ?? 0
      var problem = problems[record.device]
      if problem == nil, await !exports.isServed(record.export) { problem = "see the log" }
      summaries.append(
        ExportSummary(
          export: record.export, device: record.device, isReadOnly: record.isReadOnly,
          byteCount: size, connections: await exports.connections(of: record.export),
          uris: await exports.uris(of: record.export),
          problem: problem))
    }
    return summaries
  }
}
