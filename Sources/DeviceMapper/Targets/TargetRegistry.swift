/// The kinds of targets that tables may name.
public struct TargetRegistry: Sendable {
  private var types: [String: any TargetType] = [:]

  /// The kinds of this module.
  public static let all = TargetRegistry([
    LinearTarget.Kind(), ZeroTarget.Kind(), ErrorTarget.Kind(), FlakeyTarget.Kind(),
    DelayTarget.Kind(), DustTarget.Kind(), LogWritesTarget.Kind(), OriginTarget.Kind(),
    SnapshotTarget.Kind(), MergeTarget.Kind(), MirrorTarget.Kind(),
  ])

  /// Those kinds.
  public init(_ types: [any TargetType]) {
    for type in types { self.types[type.name] = type }
  }

  /// Adds a kind; one of the same name is replaced.
  public mutating func add(_ type: any TargetType) { types[type.name] = type }

  /// All, by name.
  public var list: [any TargetType] { types.values.sorted { $0.name < $1.name } }

  /// The kind that a word names.
  func type(_ word: TableWord) throws(DeviceMapperError) -> any TargetType {
    guard let type = types[word.text] else {
      throw word.refused(
        "there is no target '\(word.text)'",
        advice: "there are \(types.keys.sorted().joined(separator: ", "))")
    }
    return type
  }
}
