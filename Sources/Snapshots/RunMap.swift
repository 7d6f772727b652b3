/// A map of numbers to numbers in which neighbours are held as runs: key k + i maps to value v + i.
///
/// Made for exceptions: many of them come in order on both sides. A run takes 16 bytes however long
/// it is (up to 65 536), so 10 million exceptions that don't follow each other take 160 MB and at
/// most half as much again for room in the leaves. Keys and values are below 2^56.
struct RunMap: Sendable {
  /// Keys that follow each other, and their values that do, too.
  struct Run: Hashable, Sendable {
    /// The upper 8 bits of both hold the length less one.
    private let packedKey: UInt64
    private let packedValue: UInt64

    static let limit: UInt64 = 1 << 56
    static let maximumCount: UInt64 = 1 << 16

    init(_ key: UInt64, _ value: UInt64, count: UInt64) {
      precondition(key < Self.limit && value < Self.limit, "a number of 2^56 or more")
      precondition(1...Self.maximumCount ~= count)
      packedKey = key | ((count - 1) >> 8) << 56
      packedValue = value | ((count - 1) & 0xff) << 56
    }

    var key: UInt64 { packedKey & (Self.limit - 1) }
    var value: UInt64 { packedValue & (Self.limit - 1) }
    var count: UInt64 { ((packedKey >> 56) << 8 | packedValue >> 56) + 1 }
    var keys: Range<UInt64> { key..<key + count }

    /// Whether `other` carries on where this run ends.
    func isContinued(by other: Run) -> Bool {
      key + count == other.key && value + count == other.value
        && count + other.count <= Self.maximumCount
    }

    /// The part of the run whose keys are in `keys`, which it has.
    func part(_ keys: Range<UInt64>) -> Run {
      Run(keys.lowerBound, value + (keys.lowerBound - key), count: UInt64(keys.count))
    }
  }

  /// Sorted runs. Leaves of 8 KiB: small enough to insert into, few enough to find one in.
  private struct Leaf: Sendable {
    var runs: [Run]

    init() {
      runs = []
      runs.reserveCapacity(RunMap.leafCapacity)
    }
  }

  private static let leafCapacity = 510

  /// Never without a leaf; none is empty but the only one.
  private var leaves = [Leaf()]
  /// The first key of each leaf but the first, whose place holds 0.
  private var firsts: [UInt64] = [0]

  /// How many keys there are.
  private(set) var count: UInt64 = 0
  /// How many runs they are held in.
  private(set) var runCount = 0

  /// The memory taken, in bytes.
  var byteCount: Int {
    leaves.count * (Self.leafCapacity * MemoryLayout<Run>.stride + 32 + 16)
  }

  var isEmpty: Bool { count == 0 }

  // MARK: Finding

  /// The value of a key.
  func value(of key: UInt64) -> UInt64? {
    let place = place(of: key)
    guard place.index > 0 else { return nil }
    let run = leaves[place.leaf].runs[place.index - 1]
    return run.keys.contains(key) ? run.value + (key - run.key) : nil
  }

  /// The first run that has `key` or begins after it, the part before `key` cut off.
  func run(from key: UInt64) -> Run? {
    let place = place(of: key)
    let runs = leaves[place.leaf].runs
    if place.index > 0, runs[place.index - 1].keys.contains(key) {
      let run = runs[place.index - 1]
      return run.part(key..<run.keys.upperBound)
    }
    if place.index < runs.count { return runs[place.index] }
    return place.leaf + 1 < leaves.count ? leaves[place.leaf + 1].runs.first : nil
  }

  /// Whether any key of `keys` is there.
  func overlaps(_ keys: Range<UInt64>) -> Bool {
    guard !keys.isEmpty, let run = run(from: keys.lowerBound) else { return false }
    return run.key < keys.upperBound
  }

  /// Calls `body` with all runs in the order of their keys.
  func forEachRun<E: Error>(_ body: (Run) throws(E) -> Void) throws(E) {
    for leaf in leaves {
      for run in leaf.runs { try body(run) }
    }
  }

  /// The leaf in which a key belongs, and how many of its runs begin at or before it.
  private func place(of key: UInt64) -> (leaf: Int, index: Int) {
    let leaf = firsts.partition { $0 <= key } - 1
    return (leaf, leaves[leaf].runs.partition { $0.key <= key })
  }

  // MARK: Changing

  /// Adds a key; false, and nothing is changed, if it is there already.
  mutating func insert(_ key: UInt64, _ value: UInt64) -> Bool {
    let place = place(of: key)
    let new = Run(key, value, count: 1)
    // Not through a variable that holds the leaf: to change it then would copy it.
    let before = place.index > 0 ? leaves[place.leaf].runs[place.index - 1] : nil
    let after =
      place.index < leaves[place.leaf].runs.count ? leaves[place.leaf].runs[place.index] : nil
    if let before, before.keys.contains(key) { return false }
    count += 1
    let followsBefore = before?.isContinued(by: new) ?? false
    let leadsToAfter = after.map { new.isContinued(by: $0) } ?? false
    switch (followsBefore, leadsToAfter) {
    case (true, true):
      // Both are there: that is what the two conditions say.
      guard let before, let after else { preconditionFailure() }
      let joined = Run(before.key, before.value, count: before.count + 1)
      if joined.isContinued(by: after) {
        replace(place.index - 1, of: place.leaf, with: joined.extended(by: after.count))
        removeRun(place.index, of: place.leaf)
      } else {
        replace(place.index - 1, of: place.leaf, with: joined)
      }
    case (true, false):
      guard let before else { preconditionFailure() }
      replace(place.index - 1, of: place.leaf, with: before.extended(by: 1))
    case (false, true):
      guard let after else { preconditionFailure() }
      replace(place.index, of: place.leaf, with: new.extended(by: after.count))
    case (false, false): add(new, at: place.index, of: place.leaf)
    }
    return true
  }

  /// Takes all keys of `keys` out that are there.
  mutating func remove(_ keys: Range<UInt64>) {
    while !keys.isEmpty, let found = run(from: keys.lowerBound), found.key < keys.upperBound {
      let place = place(of: found.key)
      let run = leaves[place.leaf].runs[place.index - 1]
      let gone = run.keys.clamped(to: keys)
      count -= UInt64(gone.count)
      let head = run.key..<gone.lowerBound
      let tail = gone.upperBound..<run.keys.upperBound
      switch (head.isEmpty, tail.isEmpty) {
      case (true, true): removeRun(place.index - 1, of: place.leaf)
      case (false, true): replace(place.index - 1, of: place.leaf, with: run.part(head))
      case (true, false): replace(place.index - 1, of: place.leaf, with: run.part(tail))
      case (false, false):
        replace(place.index - 1, of: place.leaf, with: run.part(head))
        add(run.part(tail), at: place.index, of: place.leaf)
      }
    }
  }

  private mutating func replace(_ index: Int, of leaf: Int, with run: Run) {
    leaves[leaf].runs[index] = run
    if index == 0, leaf > 0 { firsts[leaf] = run.key }
  }

  private mutating func removeRun(_ index: Int, of leaf: Int) {
    leaves[leaf].runs.remove(at: index)
    runCount -= 1
    if leaves[leaf].runs.isEmpty, leaves.count > 1 {
      leaves.remove(at: leaf)
      firsts.remove(at: leaf)
      firsts[0] = 0
    } else if index == 0, leaf > 0 {
      firsts[leaf] = leaves[leaf].runs[0].key
    }
  }

  private mutating func add(_ run: Run, at index: Int, of leaf: Int) {
    runCount += 1
    guard leaves[leaf].runs.count == Self.leafCapacity else {
      leaves[leaf].runs.insert(run, at: index)
      if index == 0, leaf > 0 { firsts[leaf] = run.key }
      return
    }
    // Behind the last one – keys that come in order – nothing is moved, and leaves stay full.
    let isLast = index == Self.leafCapacity && leaf == leaves.count - 1
    let middle = isLast ? Self.leafCapacity : Self.leafCapacity / 2
    var upper = Leaf()
    upper.runs.append(contentsOf: leaves[leaf].runs[middle...])
    leaves[leaf].runs.removeSubrange(middle...)
    if index > middle || isLast {
      upper.runs.insert(run, at: index - middle)
    } else {
      leaves[leaf].runs.insert(run, at: index)
    }
    leaves.insert(upper, at: leaf + 1)
    firsts.insert(upper.runs[0].key, at: leaf + 1)
  }
}

extension RunMap.Run {
  fileprivate func extended(by more: UInt64) -> Self { Self(key, value, count: count + more) }
}

extension Array {
  /// How many elements stand before the first one for which `isBefore` doesn't hold; it holds for
  /// a prefix.
  fileprivate func partition(_ isBefore: (Element) -> Bool) -> Int {
    var low = startIndex
    var high = endIndex
    while low < high {
      let middle = (low + high) / 2
      if isBefore(self[middle]) { low = middle + 1 } else { high = middle }
    }
    return low
  }
}
