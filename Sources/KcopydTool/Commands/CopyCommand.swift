import ArgumentParser
import BlockIO
import Kcopyd

struct CopyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "copy",
    abstract: "Copy a file, disk or network block device to one or more others.",
    discussion: """
      Files that don't exist are made as long as the copy; existing ones must be large enough, \
      and only the copied part of them is overwritten. A destination that fails is left alone and \
      the others are finished. "Copied" is said when everything is durable.

      Source and destinations may be NBD exports: nbd://host/export, \
      'nbd+unix:///export?socket=path', and nbds for TLS with \
      ?tls-certificates=folder (ca-cert.pem, client-cert.pem, client-key.pem).
      """)

  @Argument(help: ArgumentHelp("File or block device to read.", valueName: "source"))
  var source: String

  @Argument(help: ArgumentHelp("Files or block devices to write, up to 64.", valueName: "dest"))
  var destinations: [String] = []

  @Option(help: "First sector to read, such as 2048s or 1MiB. (default: 0)")
  var from: String?

  @Option(help: "First sector to write. (default: 0)")
  var to: String?

  @Option(help: "How many sectors to copy. (default: up to the end of the source)")
  var count: String?

  @OptionGroup(title: "Content") var content: ContentOptions

  @OptionGroup(title: "Resuming and rescuing") var rescue: RescueOptions

  @OptionGroup var options: WritingOptions

  func run() async throws {
    let interruption = Interruption()
    let from = try from.map { try Sector($0, option: "--from") } ?? .zero
    let to = try to.map { try Sector($0, option: "--to") } ?? .zero
    let count = try count.map { try Sector($0, option: "--count") }
    if count == .zero { throw Refusal("--count: must be more than 0") }
    try rescue.check(with: options)
    let isWhole = from == .zero && to == .zero && count == nil && !rescue.isWanted
    let request = try content.makeRequest(options, isWhole: isWhole)
    if rescue.rescue { try content.refuseWithRescue() }
    let engine = try await options.engine.makeEngine(from: [source], to: destinations)
    let source = try await Source(
      source, from: from, count: count, options: options, on: engine)
    if rescue.isWanted {
      let copy = MappedCopy(
        source: source, paths: destinations, start: to, rescue: rescue, request: request,
        options: options, engine: engine, interruption: interruption)
      return try show(try await copy.run(), options)
    }
    let report = try await copyAll(
      source, to: destinations, at: to, request, engine, options, "copying", interruption)
    try show(report, verb: "copied", options)
  }
}

/// Copies a source to all destinations, with progress, and makes it durable.
func copyAll(
  _ source: Source, to paths: [String], at start: Sector,
  _ request: ContentRequest, _ engine: Engine, _ options: WritingOptions,
  _ title: String, _ interruption: Interruption
) async throws(Refusal) -> Report {
  let destinations = try await Destinations(
    paths, of: source, at: start, options: options, on: engine)
  let copy = ContentCopy(
    engine: engine, source: source, destinations: destinations, start: start, request: request,
    options: options, interruption: interruption)
  return try await copy.run(title)
}

/// Prints the account of a job and ends with the status it makes.
func show(_ report: Report, verb: String, _ options: WritingOptions) throws {
  if options.engine.json {
    Output.say(try report.json())
  } else {
    for line in report.content.results { Output.say(line) }
    show(text: report, verb: verb, options)
  }
  if report.status != 0 { throw Ended(status: report.status) }
}

private func show(text report: Report, verb: String, _ options: WritingOptions) {
  if !report.isGood {
    Output.note(report.text(verb: verb))
  } else if !options.engine.quiet {
    Output.say(report.text(verb: verb))
  }
}
