// swift-tools-version: 6.2
import PackageDescription

let package = Package(
  name: "kcopyd-interop",
  platforms: [.macOS("26.0")],
  dependencies: [.package(name: "kcopyd", path: "..")],
  targets: [
    .executableTarget(
      name: "kcopyd-interop",
      dependencies: [
        .product(name: "BlockIO", package: "kcopyd"),
        .product(name: "Mirrors", package: "kcopyd"),
        .product(name: "Snapshots", package: "kcopyd"),
      ],
      swiftSettings: [
        .treatAllWarnings(as: .error),
        .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
      ])
  ],
  swiftLanguageModes: [.v6]
)
