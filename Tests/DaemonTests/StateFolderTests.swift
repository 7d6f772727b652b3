import Foundation
import Testing

@testable import Daemon

/// The state on disk.
struct StateFolderTests {
  private let path = FileManager.default.temporaryDirectory
    .appendingPathComponent("kcopyd-state-\(UUID().uuidString)").path

  private func state() throws -> DaemonState {
    var state = DaemonState()
    state.devices = [
      SavedDevice(name: "disk", uuid: "u", table: "0 8 zero\n8 8 error", isReadOnly: true)
    ]
    state.exports = [SavedExport(export: "e", device: "disk", isReadOnly: true)]
    state.operations = [
      SavedOperation(
        kind: .move, device: "disk", target: "disk", from: Place(device: "/a", offset: "0"),
        to: Place(device: "/b", offset: "0"))
    ]
    return state
  }

  @Test func whatIsSavedIsLoaded() throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    let folder = try StateFolder(path)
    #expect(try folder.load() == nil)
    try folder.save(state())
    #expect(try folder.load() == state())
    try folder.save(DaemonState())
    #expect(try folder.load() == DaemonState())
    // An attempt that a crash has left behind is none of its business.
    try Data("{".utf8).write(to: URL(fileURLWithPath: "\(path)/state.json.new"))
    #expect(try folder.load() == DaemonState())
  }

  @Test func oneDaemonHasTheFolder() throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    let folder = try StateFolder(path)
    let failure = #expect(throws: ControlFailure.self) { try StateFolder(path) }
    #expect(failure?.message.contains("another daemon") == true)
    withExtendedLifetime(folder) {}
  }

  @Test func aFolderThatOthersMayEnterIsRefused() throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    try FileManager.default.createDirectory(
      atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o755])
    #expect(throws: ControlFailure.self) { try StateFolder(path) }
  }

  @Test(arguments: [
    "", "{", "[]", #"{"version": 2, "devices": [], "exports": [], "operations": []}"#,
    #"{"version": 1, "devices": [{}], "exports": [], "operations": []}"#,
    #"{"version": 1, "devices": 5, "exports": [], "operations": []}"#,
  ])
  func damagedStatesAreRefused(text: String) throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    let folder = try StateFolder(path)
    try Data(text.utf8).write(to: URL(fileURLWithPath: "\(path)/state.json"))
    let failure = #expect(throws: ControlFailure.self) { try folder.load() }
    #expect(failure?.kind == .refused)
  }
}
