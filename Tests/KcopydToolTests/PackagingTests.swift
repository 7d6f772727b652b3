import Foundation
import Testing

/// What is installed beside the command.
struct PackagingTests {
  private static let units = ["kcopyd.service", "kcopyd.socket", "kcopyd-nbd.socket"]

  /// systemd's own check finds nothing to say, and something in a unit that is wrong.
  @Test(
    .enabled(if: program("systemd-analyze") != nil, "systemd-analyze isn't installed"),
    arguments: [false, true])
  func unitsAreWhatSystemdTakes(isSpoilt: Bool) throws {
    let folder = try Folder()
    let packaging = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../Packaging").standardizedFileURL
    try FileManager.default.createDirectory(
      atPath: folder.file("bin"), withIntermediateDirectories: false)
    try FileManager.default.createSymbolicLink(
      atPath: folder.file("bin/kcopyd"), withDestinationPath: Command.path)
    for unit in Self.units {
      var text = try String(contentsOf: packaging.appendingPathComponent(unit), encoding: .utf8)
        .replacing("@PREFIX@", with: folder.path)
      if isSpoilt { text.replace("[Socket]\n", with: "[Socket]\nNoSuchSetting=yes\n") }
      try folder.write(unit, Data(text.utf8))
    }
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try #require(program("systemd-analyze")))
    process.arguments = ["verify", "--man=no"] + Self.units.map(folder.file)
    process.environment = ["SYSTEMD_UNIT_PATH": folder.path + ":", "PATH": "/usr/bin:/bin"]
    let said = folder.scratch()
    try Data().write(to: said)
    process.standardError = try FileHandle(forWritingTo: said)
    try process.run()
    process.waitUntilExit()
    let text = try String(contentsOf: said, encoding: .utf8)
    #expect(process.terminationStatus == 0 || isSpoilt, "\(text)")
    #expect(text.contains("NoSuchSetting") == isSpoilt, "\(text)")
    if !isSpoilt { #expect(text.isEmpty, "\(text)") }
  }
}
