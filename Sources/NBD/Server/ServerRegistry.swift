import Synchronization

/// What there is to connect to, and who is connected to what: asked by all threads of a server.
final class ServerRegistry: Sendable {
  private struct Entry {
    let connection: Connection
    /// What it uses, from when it has been agreed on.
    var export: Export?
  }

  private struct State {
    var exports: [String: Export] = [:]
    var entries: [ObjectIdentifier: Entry] = [:]
    var isClosed = false

    func export(named name: String) -> Export? {
      exports[name] ?? (name.isEmpty && exports.count == 1 ? exports.values.first : nil)
    }
  }

  private let state = Mutex(State())

  // MARK: Exports

  /// All exports by their names.
  var exports: [String: Export] { state.withLock { $0.exports } }

  /// Makes an export known.
  func add(_ export: Export) throws(ServerError) {
    let refusal: String? = state.withLock { state in
      if state.isClosed { return "the server is shutting down" }
      if state.exports[export.name] != nil {
        return "there is an export '\(export.name)' already"
      }
      state.exports[export.name] = export
      return nil
    }
    if let refusal { throw ServerError(refusal) }
  }

  /// Nobody finds the export any more.
  func remove(_ export: Export) {
    state.withLock { state in
      if state.exports[export.name] === export { state.exports[export.name] = nil }
    }
  }

  /// Nobody finds any, and nobody is let in.
  func close() {
    state.withLock { state in
      state.isClosed = true
      state.exports = [:]
    }
  }

  // MARK: Connections

  /// Lets a connection in, unless there are too many.
  ///
  /// - Returns: nil, or how many there are.
  func add(_ connection: Connection, limit: Int) -> Int? {
    state.withLock { state in
      guard state.entries.count < limit, !state.isClosed else { return state.entries.count }
      state.entries[ObjectIdentifier(connection)] = Entry(connection: connection)
      return nil
    }
  }

  /// The export that a connection has agreed on, which it uses from now on; nil: it has gone.
  func export(named name: String, for connection: Connection) -> Export? {
    state.withLock { state in
      // In one step with the search, so that who removes an export knows all who use it.
      guard let export = state.export(named: name) else { return nil }
      state.entries[ObjectIdentifier(connection)]?.export = export
      return export
    }
  }

  func remove(_ connection: Connection) {
    state.withLock { $0.entries[ObjectIdentifier(connection)] = nil }
  }

  /// Who uses an export, or all.
  func connections(to export: Export? = nil) -> [Connection] {
    state.withLock { state in
      state.entries.values.filter { export == nil || $0.export === export }.map(\.connection)
    }
  }
}
