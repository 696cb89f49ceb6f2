// The NumPy file format .npy, version 1 to 3 (numpy.lib.format): reading and writing of numeric arrays.

const TYPES = {
  "|u1": Uint8Array, "|i1": Int8Array, "|b1": Uint8Array, "<u2": Uint16Array, "<i2": Int16Array, "<u4": Uint32Array, "<i4": Int32Array,
  "<i8": BigInt64Array, "<u8": BigUint64Array, "<f4": Float32Array, "<f8": Float64Array,
};

/** Return {shape, data} of a .npy file (ArrayBuffer). Throws Error for a file that is no such file, or of another type. */
export function readArray(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 10 || view.getUint32(0) !== 0x934e554d) throw new Error("this is not a .npy file");
  const long = view.getUint8(6) > 1;
  const start = long ? 12 : 10, length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, start, length));
  const type = header.match(/'descr': *'([^']+)'/)?.[1], Type = TYPES[type];
  if (!Type || /'fortran_order': *True/.test(header)) throw new Error(`.npy files of type ${type} are not supported`);
  const shape = (header.match(/'shape': *\(([^)]*)\)/)?.[1] ?? "").split(",").filter(text => text.trim()).map(Number);
  return { shape, data: new Type(buffer.slice(start + length)) };
}

/** Return a .npy file (Uint8Array) of a float32 array. */
export function writeArray(shape, data) {
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const header = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + "\n";
  const file = new Uint8Array(10 + header.length + 4 * data.length);
  file.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  file.set(new TextEncoder().encode(header), 10);
  file.set(new Uint8Array(Float32Array.from(data).buffer), 10 + header.length);
  return file;
}
