import ArgumentParser
import BlockIO
import Imaging

/// The options of copies that can be resumed, and go around what can't be read.
struct RescueOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Keep what is done in FILE, a mapfile of GNU ddrescue, and go on from it.",
      valueName: "file"))
  var map: String?

  @Option(help: "How often the map is written, after flushing all destinations. (default: 5s)")
  var mapInterval: String?

  @Flag(help: "Go around what can't be read, in ddrescue's order: copy, trim, scrape, retry.")
  var rescue = false

  @Option(
    parsing: .unconditional,
    help: "Rescue: how often bad sectors are read again at the end; -1 until all are read.")
  var retries: Int = 0

  @Option(help: "Rescue: what lost sectors become: zeros, marker. (default: left as they are)")
  var fill: ImagingJob.Fill?

  @Option(help: "Rescue: end after more read errors than that.")
  var maxErrors: Int?

  @Option(help: "Rescue: end when nothing could be read for so long, such as 30s, 5m.")
  var timeout: String?

  @Option(help: "Rescue: leave areas for later that are read with fewer bytes per second.")
  var minReadRate: String?

  @Option(help: "Rescue: size of a read while copying, up to 1MiB. (default: 64KiB)")
  var clusterSize: String?

  @Option(help: "Rescue: size of the smallest read. (default: the device's physical block)")
  var sectorSize: String?

  @Option(help: "Rescue: what is skipped after the first error; 0: nothing. (default: as ddrescue)")
  var skipSize: String?

  @Flag(help: "Rescue: don't trim failed reads.")
  var noTrim = false

  @Flag(help: "Rescue: don't read bad areas sector by sector.")
  var noScrape = false

  @Flag(help: "Rescue: take failed areas as not tried yet.")
  var tryAgain = false

  /// Whether the copy is to be made by what this file stands for.
  var isWanted: Bool { map != nil || rescue }

  /// Refuses what makes no sense together.
  func check(with writing: WritingOptions) throws(Refusal) {
    if !rescue {
      let given: [(Bool, String)] = [
        (retries != 0, "--retries"), (fill != nil, "--fill"), (maxErrors != nil, "--max-errors"),
        (timeout != nil, "--timeout"), (minReadRate != nil, "--min-read-rate"),
        (clusterSize != nil, "--cluster-size"), (sectorSize != nil, "--sector-size"),
        (skipSize != nil, "--skip-size"), (noTrim, "--no-trim"), (noScrape, "--no-scrape"),
        (tryAgain, "--try-again"),
      ]
      if let (_, name) = given.first(where: \.0) {
        throw Refusal("\(name) is for a rescue: give --rescue, too")
      }
    }
    if map == nil, mapInterval != nil { throw Refusal("--map-interval: there is no --map") }
    guard isWanted else { return }
    if writing.ignoreErrors {
      throw Refusal("--ignore-errors: use --rescue --fill zeros for a copy with --map or --rescue")
    }
    if writing.noSync && map != nil {
      throw Refusal("--no-sync: a map says what is durable, and nothing would be")
    }
    if retries < -1 { throw Refusal("--retries: must be -1 or more") }
    if let maxErrors, maxErrors < 0 { throw Refusal("--max-errors: must be 0 or more") }
    if map?.isEmpty == true { throw Refusal("--map: a name of a file is wanted") }
  }

  /// How the job is to be done.
  func jobOptions(
    for source: Source, _ writing: WritingOptions
  ) throws(Refusal) -> ImagingJob.Options {
    var options = ImagingJob.Options()
    options.flushes = !writing.noSync
    if let mapInterval {
      options.saveInterval = try Self.interval(mapInterval, "--map-interval")
      guard options.saveInterval > .zero else {
        throw Refusal("--map-interval: must be more than 0")
      }
    }
    guard rescue else { return options }
    options.rescue = try planOptions(for: source)
    options.fill = fill
    options.maximumErrors = maxErrors
    options.timeout = try timeout.map { (text) throws(Refusal) in
      try Self.interval(text, "--timeout")
    }
    options.minimumReadRate = try minReadRate.map { (text) throws(Refusal) in
      try Size.bytes(text, plain: 1, option: "--min-read-rate")
    }
    return options
  }

  private func planOptions(for source: Source) throws(Refusal) -> RescuePlan.Options {
    let limits = source.device.limits
    let natural = Sector(holding: UInt64(max(limits.logicalBlock, limits.physicalBlock)))
    let largest = Sector(holding: 1 << 20)
    let block = try Self.size(sectorSize, "--sector-size") ?? (min(natural, 8))
    guard block > .zero, block <= largest else {
      throw Refusal("--sector-size: must be 1 sector to 1MiB")
    }
    var plan = RescuePlan.Options(count: source.region.count, block: block)
    if let cluster = try Self.size(clusterSize, "--cluster-size") {
      guard cluster >= block, cluster <= largest else {
        throw Refusal("--cluster-size: must be the sector size to 1MiB")
      }
      plan.cluster = cluster
    }
    if let skip = try Self.size(skipSize, "--skip-size") {
      plan.initialSkip = skip
      plan.maximumSkip = max(skip, plan.maximumSkip)
    }
    plan.trims = !noTrim
    plan.scrapes = !noScrape
    plan.retries = retries < 0 ? nil : retries
    plan.triesAgain = tryAgain
    return plan
  }

  private static func size(_ text: String?, _ option: String) throws(Refusal) -> Sector? {
    try text.map { (text) throws(Refusal) in try Sector(text, option: option) }
  }

  /// A time: a number of seconds, or with ms, s, m, h, d.
  private static func interval(_ text: String, _ option: String) throws(Refusal) -> Duration {
    let units = ["ms": 1, "s": 1000, "": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000]
    let digits = text.prefix { $0.isASCII && $0.isNumber }
    guard let factor = units[String(text.dropFirst(digits.count))], let number = Int64(digits),
      number <= 1_000_000_000_000 / Int64(factor)
    else {
      throw Refusal("\(option): '\(text)' is not a time such as 30s, 5m, 2h")
    }
    return .milliseconds(number * Int64(factor))
  }
}

extension ImagingJob.Fill: ExpressibleByArgument {}
