import BlockIO
import Snapshots

/// What follows the two devices of a `snapshot` line: the kernel's words, and behind its features a
/// second group of this program's own, `#words word…`:
///
/// | Words | Meaning |
/// |---|---|
/// | `grow_to SECTORS` | the COW device is made larger when it is full, up to that size |
/// | `hold MILLISECONDS` | writes to the origin wait that long for room before the snapshot is given up |
struct SnapshotOptions: Sendable {
  let parameters: SnapshotParameters

  init(_ context: TargetContext, _ words: [TableWord]) throws(DeviceMapperError) {
    var parameters: SnapshotParameters
    do throws(SnapshotError) {
      parameters = try SnapshotParameters(words: words.map(\.text))
    } catch { throw context.refusedWords(error.description, words) }
    // Store, chunk size, number of features, features. The kernel takes any words behind these.
    let features = words.count > 2 ? Int(words[2].text) ?? 0 : 0
    let own = Array(words.dropFirst(3 + features))
    if let first = own.first {
      let count = try first.number("number of option words")
      guard count == own.count - 1 else {
        throw first.refused("\(count) option words are announced and \(own.count - 1) given")
      }
      try Self.read(Array(own.dropFirst()), context, into: &parameters)
    }
    self.parameters = parameters
  }

  private static func read(
    _ words: [TableWord], _ context: TargetContext, into parameters: inout SnapshotParameters
  ) throws(DeviceMapperError) {
    var rest = words[...]
    while let word = rest.popFirst() {
      guard ["grow_to", "hold"].contains(word.text) else {
        throw word.refused("there is no option '\(word.text)'", advice: "there are grow_to, hold")
      }
      guard let value = rest.popFirst() else {
        throw context.line.end.refused("the value of '\(word.text)' is missing")
      }
      if word.text == "grow_to" {
        parameters.growthLimit = Sector(try value.sector("size in sectors"))
      } else {
        let time = try value.number("time in milliseconds")
        guard time <= UInt64(UInt32.max) else { throw value.refused("'\(value)' is too long") }
        parameters.whenFull = .hold(atMost: .milliseconds(Int64(time)))
      }
    }
  }

  /// The kernel's words with these behind them, if there are any.
  func words(kernel: String) -> String {
    var own: [String] = []
    if let limit = parameters.growthLimit { own += ["grow_to", "\(limit.rawValue)"] }
    if case .hold(let time) = parameters.whenFull {
      own += ["hold", "\(time.nanoseconds / 1_000_000)"]
    }
    guard !own.isEmpty else { return kernel }
    let hasFeatures = parameters.discardZeroesCow || parameters.discardPassdownOrigin
    return ([kernel] + (hasFeatures ? [] : ["0"]) + ["\(own.count)"] + own)
      .joined(separator: " ")
  }
}
