import DeviceMapper
import Testing

/// dmsetup's concise format.
struct ConciseTests {
  /// The examples of dmsetup's manual.
  @Test func examples() throws {
    #expect(
      try ConciseText.devices(
        "test-linear-small,,,ro,0 2097152 linear /dev/loop0 0,2097152 2097152 linear /dev/loop1 0")
        == [
          ConciseDevice(
            name: "test-linear-small", isReadOnly: true,
            table: [
              "0 2097152 linear /dev/loop0 0", "2097152 2097152 linear /dev/loop1 0",
            ])
        ])
    #expect(
      try ConciseText.devices(
        "test-linear-small,,,,0 2097152 linear /dev/loop0 0;test-linear-large,,,,"
          + "0 2097152 linear /dev/loop1 0, 2097152 2097152 linear /dev/loop2 0"
      ) == [
        ConciseDevice(name: "test-linear-small", table: ["0 2097152 linear /dev/loop0 0"]),
        ConciseDevice(
          name: "test-linear-large",
          table: ["0 2097152 linear /dev/loop1 0", "2097152 2097152 linear /dev/loop2 0"]),
      ])
  }

  @Test func whatIsPrintedIsReadAsTheSame() throws {
    let devices = [
      ConciseDevice(
        name: "a,b;c\\d", uuid: "U;1", minor: 7, isReadOnly: true,
        table: ["0 8 linear /x\\ y,z 0", "8 8 zero "]),
      ConciseDevice(name: " blanks ", table: []),
      ConciseDevice(name: "é\u{301},", table: ["0 8 zero"]),
    ]
    #expect(try ConciseText.devices(ConciseText.text(devices)) == devices)
    #expect(try ConciseText.devices("a,,,rw\n;\n") == [ConciseDevice(name: "a", table: [])])
    #expect(
      ConciseText.text([ConciseDevice(name: "a,b", minor: 3, table: ["0 8 linear /x\\ y 0"])])
        == "a\\,b,,3,rw,0 8 linear /x\\\\ y 0")
  }

  @Test(arguments: [
    ("", "device 1 field 1: the name is missing"),
    ("a", "device 1 field 2: 'a' has no more than 1"),
    ("a,,,rw,0 8 zero;b,,x,rw,0 8 zero", "device 2 field 3: 'x' is no minor number"),
    ("a,,1048576,,", "device 1 field 3"), ("a,,,rx,0 8 zero", "device 1 field 4: there is no flag"),
    ("a,,,rw,0 8 zero;;b,,,rw", "device 2 field 1"), ("a,,,rw,0 8 \\", "device 1 field 5"),
    ("a,,,;a,,,", "device 2 field 1: there is a device 'a' before"),
  ])
  func malformed(text: String, reason: String) {
    let error = #expect(throws: DeviceMapperError.self) { try ConciseText.devices(text) }
    #expect(error?.description.hasPrefix(reason) == true, "\(error as Any)")
  }
}
