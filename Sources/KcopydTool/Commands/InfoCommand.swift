import ArgumentParser
import BlockIO
import Kcopyd
import NBD
import SystemPackage

struct InfoCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "info",
    abstract: "Show size, block sizes and limits of a file, disk or NBD export.")

  @Argument(help: ArgumentHelp("File or block device.", valueName: "device"))
  var device: String

  @Flag(help: "Print the result as JSON.")
  var json = false

  private struct Document: Encodable {
    let device: String
    let kind: String
    let bytes: UInt64
    let sectors: UInt64
    let logicalBlock: Int
    let physicalBlock: Int
    let optimalTransfer: Int
    let maximumTransfer: Int?
    let readOnly: Bool
    let zoned: Bool
    let direct: Bool
    let writeZeroes: Bool?
    let discard: Bool?
    let inUse: Bool?
    var features: [String]?
  }

  func run() async throws {
    let export = try await openExport(device, writable: false)
    let document = try export.map(describe) ?? inspect()
    Output.say(json ? try encodeJSON(document) : text(document))
  }

  private func describe(_ export: NBDDevice) -> Document {
    let limits = export.limits
    return Document(
      device: device, kind: "network block device", bytes: export.byteCount,
      sectors: export.sectorCount.rawValue, logicalBlock: limits.logicalBlock,
      physicalBlock: limits.physicalBlock, optimalTransfer: limits.optimalTransfer,
      maximumTransfer: limits.maximumTransfer, readOnly: limits.isReadOnly, zoned: false,
      direct: false, writeZeroes: limits.supportsWriteZeroes, discard: limits.supportsDiscard,
      inUse: nil, features: export.features)
  }

  private func inspect() throws(Refusal) -> Document {
    do throws(IOFailure) {
      let loop = try IOLoop.start(logger: Output.logger)
      let opened = try FileDevice.open(
        device, .init(isWritable: false, isExclusive: false), on: loop)
      var limits = opened.limits
      let writable = try? FileDevice.open(
        device, .init(isWritable: true, isExclusive: false), on: loop)
      // What can be zeroed or given up shows only on what may be written.
      if let writable { limits = writable.limits }
      let direct = try? FileDevice.open(
        device, .init(isWritable: false, direct: .on, isExclusive: false), on: loop)
      return Document(
        device: device, kind: opened.isBlockSpecial ? "block device" : "regular file",
        bytes: opened.byteCount, sectors: opened.sectorCount.rawValue,
        logicalBlock: direct?.limits.logicalBlock ?? limits.logicalBlock,
        physicalBlock: limits.physicalBlock, optimalTransfer: limits.optimalTransfer,
        maximumTransfer: limits.maximumTransfer, readOnly: writable == nil, zoned: limits.isZoned,
        direct: direct != nil,
        writeZeroes: opened.isBlockSpecial ? writable?.limits.supportsWriteZeroes : nil,
        discard: opened.isBlockSpecial ? writable?.limits.supportsDiscard : nil,
        inUse: opened.isBlockSpecial && isHeld(on: loop))
    } catch {
      throw Refusal(error.description)
    }
  }

  private func isHeld(on loop: IOLoop) -> Bool {
    do throws(IOFailure) {
      _ = try FileDevice.open(device, .init(isWritable: false, isExclusive: true), on: loop)
      return false
    } catch {
      return error.errno == .resourceBusy
    }
  }

  private func text(_ info: Document) -> String {
    func yes(_ value: Bool?) -> String { value.map { $0 ? "yes" : "no" } ?? "not known" }
    return Format.table(
      [
        ["device", info.device],
        ["kind", info.kind],
        ["size", "\(Format.bytes(info.bytes)) (\(info.bytes) bytes, \(info.sectors) sectors)"],
        ["logical block", "\(info.logicalBlock) bytes"],
        ["physical block", "\(info.physicalBlock) bytes"],
        ["best transfer", Format.bytes(UInt64(info.optimalTransfer))],
        ["largest transfer", info.maximumTransfer.map { Format.bytes(UInt64($0)) } ?? "no limit"],
        ["O_DIRECT", yes(info.direct)],
        ["zeroes by command", yes(info.writeZeroes)],
        ["discard", yes(info.discard)],
        ["zoned", yes(info.zoned)],
        ["writable", yes(!info.readOnly)],
        ["in use", yes(info.inUse)],
      ] + (info.features.map { [["server offers", $0.joined(separator: ", ")]] } ?? []))
  }
}
