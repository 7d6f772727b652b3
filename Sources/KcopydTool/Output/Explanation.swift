import BlockIO
import Kcopyd
import NBD

/// How a job is going to be done, and why.
struct Explanation {
  let engine: Engine
  let source: Source?
  let destinations: [any BlockDevice]
  /// Destinations that were cloned, by index.
  var cloned: Set<Int> = []
  /// What of the source isn't read.
  var holes = Sector.zero

  func show() {
    let devices = (source?.files.map { ("source", $0) } ?? []) + destinations.map { ("dest", $0) }
    var rows = devices.map { role, device in
      [role, device.name, reason(device), "blocks of \(device.limits.logicalBlock) bytes"]
    }
    rows.append(["backend", engine.loop.backendName])
    rows.append(["way", way])
    if holes > .zero { rows.append(["holes", "\(Format.bytes(holes.bytes)) aren't read"]) }
    rows.append([
      "memory",
      "\(Format.bytes(UInt64(engine.client.pageCount * PagePool.pageSize))) in pieces of"
        + " \(Format.bytes(engine.client.subJob.bytes))",
    ])
    Output.note(Format.table(rows))
  }

  private func reason(_ device: any BlockDevice) -> String {
    switch device {
    case let file as FileDevice: file.directReason
    case let export as NBDDevice: "NBD: \(export.features.joined(separator: ", "))"
    default: ""
    }
  }

  private var way: String {
    guard let source else {
      return destinations.allSatisfy(\.limits.supportsWriteZeroes)
        ? "zeroes by command: every destination can" : "zeroes written from memory"
    }
    if cloned.count == destinations.count {
      return "cloned: blocks are shared, nothing is read or written"
    }
    if PageCachedCopy(source: source.device, destinations: destinations) != nil {
      return "whole pieces on \(engine.loop.transferThreads) threads: fastest within the page cache"
    }
    return "\(KcopydClient.subJobsInFlight) pieces under way, request by request:"
      + " fastest where disks are waited for"
  }
}
