public import BlockIO

/// What `dmsetup info` says of a device, and what it has done.
public struct DeviceInfo: Sendable, Hashable {
  /// Its name.
  public let name: String
  /// Its uuid; empty: none.
  public let uuid: String
  /// Its number.
  public let major: Int
  /// Its number.
  public let minor: Int
  /// Whether requests wait.
  public let isSuspended: Bool
  /// Whether it can only be read.
  public let isReadOnly: Bool
  /// Whether it has a live table.
  public let hasLiveTable: Bool
  /// Whether another table waits for the next resume.
  public let hasInactiveTable: Bool
  /// Handles on it, and tables that use it.
  public let openCount: Int
  /// How many events there have been.
  public let eventNumber: UInt32
  /// Targets of the live table.
  public let targetCount: Int
  /// Whether it goes when it is closed.
  public let isRemovalDeferred: Bool
  /// Its size.
  public let sectorCount: Sector
  /// What it has done.
  public let statistics: DeviceStatistics
}

/// What it takes to make a device again.
public struct DeviceRecord: Sendable, Hashable {
  /// Its name.
  public let name: String
  /// Its uuid; empty: none.
  public let uuid: String
  /// Its minor number.
  public let minor: Int
  /// Whether it can only be read.
  public let isReadOnly: Bool
  /// Whether requests wait.
  public let isSuspended: Bool
  /// The live table, with names instead of numbers.
  public let table: String?
  /// The inactive one.
  public let inactiveTable: String?
}

extension DeviceMapper {
  /// All names, in order.
  public func list() -> [String] { minors.keys.sorted() }

  /// All that `info` says.
  public func info(_ name: String) throws(DeviceMapperError) -> DeviceInfo {
    info(of: try find(name))
  }

  /// The same of all devices, by name.
  public func infos() -> [DeviceInfo] {
    entries.values.sorted { $0.name < $1.name }.map(info(of:))
  }

  private func info(of entry: DeviceEntry) -> DeviceInfo {
    DeviceInfo(
      name: entry.name, uuid: entry.uuid, major: configuration.major, minor: entry.minor,
      isSuspended: entry.isSuspended, isReadOnly: entry.device.isReadOnly,
      hasLiveTable: entry.live != nil, hasInactiveTable: entry.inactive != nil,
      openCount: entry.openCount, eventNumber: entry.eventNumber,
      targetCount: entry.live?.targets.count ?? 0, isRemovalDeferred: entry.isRemovalDeferred,
      sectorCount: entry.device.sectorCount, statistics: entry.device.gate.statistics)
  }

  /// The status lines, one for each target: `START LENGTH TARGET TEXT`.
  ///
  /// - Parameter isInactive: of the inactive table.
  public func status(
    _ name: String, isInactive: Bool = false
  ) async throws(DeviceMapperError) -> [String] {
    try await lines(name, isInactive: isInactive) { target, labels in await target.status(labels) }
  }

  /// The table lines, with numbers as the kernel prints them: `START LENGTH TARGET TEXT`.
  ///
  /// - Parameters:
  ///   - isInactive: of the inactive table.
  ///   - usesNames: names and paths instead of `major:minor`.
  public func table(
    _ name: String, isInactive: Bool = false, usesNames: Bool = false
  ) async throws(DeviceMapperError) -> [String] {
    try await lines(name, isInactive: isInactive, usesNames: usesNames) { target, labels in
      await target.table(labels)
    }
  }

  private func lines(
    _ name: String, isInactive: Bool, usesNames: Bool = false,
    _ text: (any Target, DeviceLabels) async -> String
  ) async throws(DeviceMapperError) -> [String] {
    let entry = try find(name)
    guard let table = isInactive ? entry.inactive : entry.live else { return [] }
    return await lines(table, usesNames ? names : numbers, text)
  }

  private func lines(
    _ table: MappedTable, _ labels: DeviceLabels,
    _ text: (any Target, DeviceLabels) async -> String
  ) async -> [String] {
    var lines: [String] = []
    for (target, line) in zip(table.targets, table.description.lines) {
      lines.append("\(line.head) \(await text(target, labels))")
    }
    return lines
  }

  /// The devices on which the live table stands, as numbers or words.
  public func deps(
    _ name: String, isInactive: Bool = false
  ) throws(DeviceMapperError) -> [String] {
    let entry = try find(name)
    var found: [String] = []
    for device in (isInactive ? entry.inactive : entry.live)?.devices ?? [] {
      let label = numbers(device)
      if !found.contains(label) { found.append(label) }
    }
    return found
  }

  /// The targets that tables may name, with their versions.
  public nonisolated var targets: [(name: String, version: String)] {
    configuration.targets.list.map { ($0.name, $0.version) }
  }

  /// What it takes to make all devices again, in an order in which that works: create each one with
  /// its table.
  public func records() async -> [DeviceRecord] {
    var records: [DeviceRecord] = []
    for entry in bottomUp(entries.keys) where !entry.isRemoved {
      var texts: [String?] = []
      for table in [entry.live, entry.inactive] {
        guard let table else {
          texts.append(nil)
          continue
        }
        let lines = await lines(table, names) { await $0.table($1) }
        texts.append(lines.joined(separator: "\n"))
      }
      records.append(
        DeviceRecord(
          name: entry.name, uuid: entry.uuid, minor: entry.minor,
          isReadOnly: entry.device.isReadOnly, isSuspended: entry.isSuspended, table: texts[0],
          inactiveTable: texts[1]))
    }
    return records
  }

  // MARK: Messages

  /// Sends a message to the target at a sector.
  ///
  /// - Returns: the reply, if there is one.
  public func message(
    _ name: String, sector: Sector = .zero, _ text: String
  ) async throws(DeviceMapperError) -> String? {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      let entry = mapper.entry(minor)
      let words = try TableText.lines(text).flatMap { $0 }.map(\.text)
      guard let first = words.first else {
        throw DeviceMapperError(.message, "the message is empty")
      }
      if first.hasPrefix("@") {
        guard first == "@cancel_deferred_remove" else {
          throw DeviceMapperError(
            .message, "there is no message '\(first)'", advice: "there is @cancel_deferred_remove")
        }
        entry.isRemovalDeferred = false
        return nil
      }
      guard let live = entry.live else { throw DeviceMapperError(.state, "it has no live table") }
      guard sector < live.sectorCount else {
        throw DeviceMapperError(
          .message, "there is no sector \(sector.rawValue); it has \(live.sectorCount.rawValue)")
      }
      return try await live.targets[live.index(of: sector)].message(words)
    }
  }

  // MARK: Using

  /// Opens a device for use: as long as the handle isn't closed it can't be removed.
  public func open(_ name: String) throws(DeviceMapperError) -> DeviceHandle {
    let entry = try find(name)
    entry.openCount += 1
    return DeviceHandle(entry.device, self)
  }
}
