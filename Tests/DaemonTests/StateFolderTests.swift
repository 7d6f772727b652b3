import Foundation
import Synchronization
import SystemPackage
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
    try folder.save(state(), replacing: DaemonState())
    #expect(try folder.load() == state())
    try folder.save(DaemonState(), replacing: state())
    #expect(try folder.load() == DaemonState())
    // An attempt that a crash has left behind is none of its business.
    try Data("{".utf8).write(to: URL(fileURLWithPath: "\(path)/state.json.new"))
    #expect(try folder.load() == DaemonState())
  }

  /// A folder that can't be flushed after the file was replaced: what was there is put back, or – if
  /// that can't be made durable either – nobody knows.
  @Test(arguments: [false, true]) func aFolderThatCantBeFlushed(isForGood: Bool) throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    let calls = Mutex(0)
    let folder = try StateFolder(path) { _ throws(Errno) in
      let call = calls.withLock { calls in
        calls += 1
        return calls
      }
      if isForGood ? call >= 2 : call == 2 { throw .ioError }
    }
    try folder.save(DaemonState(), replacing: DaemonState())
    let failure = #expect(throws: StateFolder.SaveFailure.self) {
      try folder.save(state(), replacing: DaemonState())
    }
    #expect(failure?.isInDoubt == isForGood)
    #expect(failure?.failure.kind == .failed)
    if !isForGood { #expect(try folder.load() == DaemonState()) }
  }

  /// Logs that nobody uses go, and nothing else.
  @Test func filesOfMirrorsThatWerentMadeGo() throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    let folder = try StateFolder(path)
    let (log, sidecar) = folder.newMirrorFiles(for: "disk")
    let (usedLog, usedSidecar) = folder.newMirrorFiles(for: "disk")
    // The daemon was started with another path of the same folder then.
    let otherPath = "/elsewhere/../" + usedSidecar
    let others = ["\(path)/notes.log", "\(path)/state.json", "\(path)/x-0123abcd.log"]
    for file in [log, sidecar, usedLog, usedSidecar] + others {
      try Data("x".utf8).write(to: URL(fileURLWithPath: file))
    }
    var state = DaemonState()
    state.devices = [
      SavedDevice(
        name: "disk",
        table: "0 8 mirror disk 2 \(usedLog) 8 2 /a 0 /b 0 0 2 sidecar \(otherPath)")
    ]
    folder.removeUnusedMirrorFiles(by: state)
    let left = [log, sidecar, usedLog, usedSidecar] + others
    #expect(
      left.map { FileManager.default.fileExists(atPath: $0) }
        == [false, false, true, true, true, true, true])
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
