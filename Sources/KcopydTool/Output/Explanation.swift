import BlockIO
import Kcopyd

/// How a job is going to be done, and why.
struct Explanation {
  let engine: Engine
  let source: Source?
  let destinations: [FileDevice]

  func show() {
    let devices = (source?.files.map { ("source", $0) } ?? []) + destinations.map { ("dest", $0) }
    var rows = devices.map { role, device in
      [role, device.name, device.directReason, "blocks of \(device.limits.logicalBlock) bytes"]
    }
    rows.append(["backend", engine.loop.backendName])
    rows.append(["way", way])
    rows.append([
      "memory",
      "\(Format.bytes(UInt64(engine.client.pageCount * PagePool.pageSize))) in pieces of"
        + " \(Format.bytes(engine.client.subJob.bytes))",
    ])
    Output.note(Format.table(rows))
  }

  private var way: String {
    guard let source else {
      return destinations.allSatisfy(\.limits.supportsWriteZeroes)
        ? "zeroes by command: every destination can" : "zeroes written from memory"
    }
    if PageCachedCopy(source: source.device, destinations: destinations) != nil {
      return "whole pieces on \(engine.loop.transferThreads) threads: fastest within the page cache"
    }
    return "\(KcopydClient.subJobsInFlight) pieces under way, request by request:"
      + " fastest where disks are waited for"
  }
}
