import BlockIO
import Foundation

/// The folder of a scenario: the images, and the files that say what they must be read as.
struct Folder {
  let path: String

  func path(_ name: String) -> String { "\(path)/\(name)" }

  func write(_ bytes: [UInt8], to name: String) throws {
    try Data(bytes).write(to: URL(filePath: path(name)), options: .withoutOverwriting)
  }

  func write(line: String, to name: String) throws { try write(Array("\(line)\n".utf8), to: name) }

  func contents(of name: String) throws -> [UInt8] {
    try Array(Data(contentsOf: URL(filePath: path(name))))
  }

  /// Writes over a file in place.
  func overwrite(_ name: String, with bytes: [UInt8]) throws {
    try Data(bytes).write(to: URL(filePath: path(name)))
  }

  func sectorCount(of name: String) throws -> Sector {
    let attributes = try FileManager.default.attributesOfItem(atPath: path(name))
    guard let bytes = attributes[.size] as? Int else { throw CocoaError(.fileReadUnknown) }
    return Sector(holding: UInt64(bytes))
  }
}
