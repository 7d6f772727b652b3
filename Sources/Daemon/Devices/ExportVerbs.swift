import BlockIO
import DeviceMapper

// What is served over NBD.

extension DeviceKeeper {
  func export(
    _ name: String, as export: String?, isReadOnly: Bool
  ) async throws(ControlFailure) -> String {
    try await exclusively { () throws(ControlFailure) in
      _ = try known(name)
      try checkThere(name)
      var next = state
      let record = try next.export(name, as: export ?? name, isReadOnly: isReadOnly)
      try await exports.start(record)
      do throws(ControlFailure) {
        try await save(next)
      } catch {
        await exports.stop(record.export)
        throw error
      }
      return await whereExported(record.export)
    }
  }

  /// Where clients find an export, for people.
  func whereExported(_ export: String) async -> String {
    let uris = await exports.uris(of: export)
    return uris.isEmpty
      ? "exported '\(export)', but no place to serve it at was given to kcopyd serve"
      : uris.joined(separator: "\n")
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
