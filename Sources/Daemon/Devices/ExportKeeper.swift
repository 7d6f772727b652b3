import BlockIO
import DeviceMapper
import Logging
import Metrics
import NBD
import NIOPosix

/// What is exported, and the server that does it.
actor ExportKeeper {
  private struct Served {
    let handle: DeviceHandle
    let export: Export
  }

  private nonisolated let mapper: DeviceMapper
  private nonisolated let server: NBDServer
  private nonisolated let logger: Logger
  private var served: [String: Served] = [:]
  /// Where clients find it.
  private(set) var addresses: [ListenAddress] = []

  nonisolated var unownedExecutor: UnownedSerialExecutor {
    mapper.loop.asUnownedSerialExecutor()
  }

  init(_ mapper: DeviceMapper, _ server: NBDServer, logger: Logger) {
    self.mapper = mapper
    self.server = server
    self.logger = logger
  }

  /// Takes clients at these places from now on.
  func listen(_ wanted: [ListenAddress]) async throws(ControlFailure) {
    for address in wanted {
      if case .unix(let path) = address, try UnixSocket.isThere(path, for: "unix"),
        await UnixSocket.isListenedAt(path, MultiThreadedEventLoopGroup.singleton)
      {
        throw .refused("unix: another program listens at '\(path)'; use another path, or end it")
      }
      do throws(ServerError) {
        addresses.append(try await server.listen(on: address))
      } catch {
        throw .refused("\(error)")
      }
    }
  }

  /// Takes clients from sockets that were handed over at the start.
  func listen(onInherited descriptors: [Int32]) async throws(ControlFailure) {
    for descriptor in descriptors {
      do throws(ServerError) {
        addresses.append(try await server.listen(onInherited: descriptor))
      } catch {
        throw .refused("\(error)")
      }
    }
  }

  /// Begins to serve a device.
  func start(_ record: SavedExport) async throws(ControlFailure) {
    guard served[record.export] == nil else { return }
    let handle: DeviceHandle
    do throws(DeviceMapperError) {
      handle = try await mapper.open(record.device)
    } catch {
      throw .refused("\(error)")
    }
    do throws(ServerError) {
      let export = try await server.export(
        handle.device, as: record.export, isReadOnly: record.isReadOnly)
      served[record.export] = Served(handle: handle, export: export)
    } catch {
      await handle.close()
      throw .refused("\(error)")
    }
  }

  /// Stops serving: what clients have asked for is done, then they are disconnected.
  func stop(_ name: String) async {
    guard let gone = served.removeValue(forKey: name) else { return }
    await server.remove(gone.export)
    await gone.handle.close()
  }

  /// Ends everything.
  func stopAll() async {
    await server.shutDown()
    for export in served.values { await export.handle.close() }
    served = [:]
  }

  /// How many clients an export has.
  func connections(of name: String) async -> Int {
    guard let export = served[name]?.export else { return 0 }
    return await server.connectionCount(of: export)
  }

  /// How clients call it.
  func uris(of name: String) -> [String] {
    addresses.map { address in
      let path = name.addingPercentEncoding
      return switch address {
      case .unix(let socket): "nbd+unix:///\(path)?socket=\(socket)"
      case .tcp: "\(address)/\(path)"
      }
    }
  }

  func isServed(_ name: String) -> Bool { served[name] != nil }

  /// Puts what has been done for clients into a page of metrics.
  func collect(into registry: PrometheusRegistry) async {
    for (name, export) in served {
      let label = ("export", name)
      for kind in ExportCounters.Kind.allCases {
        let numbers = export.export.counters[kind]
        let labels = [label, ("operation", kind.rawValue)]
        registry.counter("kcopyd_export_requests_total", labels, Double(numbers.requests))
        registry.counter("kcopyd_export_failures_total", labels, Double(numbers.failures))
        registry.counter("kcopyd_export_bytes_total", labels, Double(numbers.bytes))
        registry.counter("kcopyd_export_seconds_total", labels, Double(numbers.nanoseconds) / 1e9)
      }
      registry.gauge("kcopyd_export_queue", [label], Double(export.export.counters.inFlight))
      registry.gauge(
        "kcopyd_export_clients", [label],
        Double(await server.connectionCount(of: export.export)))
    }
  }
}

extension String {
  /// As it stands in the path of a URI.
  fileprivate var addingPercentEncoding: String {
    utf8.map { byte in
      let character = Character(Unicode.Scalar(byte))
      let isPlain =
        character.isASCII
        && (character.isLetter || character.isNumber || "-._~".contains(character))
      let digits = String(byte, radix: 16, uppercase: true)
      return isPlain ? String(character) : "%" + (digits.count < 2 ? "0" : "") + digits
    }.joined()
  }
}
