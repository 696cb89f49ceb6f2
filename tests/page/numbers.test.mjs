// Tests of lib/numbers.js and lib/npy.js.
import assert from "node:assert/strict";
import test from "node:test";
import { brief, fromJson, MAX_SEED, randomSeed, readSeed, toJson } from "../../service/http/pages/static/lib/numbers.js";
import { readArray, writeArray } from "../../service/http/pages/static/lib/npy.js";

test("seeds are exact up to 2^63 - 1", () => {
  assert.equal(readSeed("9223372036854775807"), MAX_SEED);
  assert.equal(readSeed(" 7 "), 7n);
  for (const wrong of ["9223372036854775808", "-1", "1.5", "", "1e3", "0x1", null]) assert.equal(readSeed(wrong), null);
  for (let i = 0; i < 100; i++) assert.ok(randomSeed() >= 0n && randomSeed() < 2n ** 31n);
});

test("JSON keeps large integers", () => {
  assert.equal(toJson({ seed: MAX_SEED, n: 4, class: undefined }), '{"seed":9223372036854775807,"n":4}');
  assert.equal(fromJson('{"seed": 9223372036854775807, "n": 4}').seed, MAX_SEED);
  assert.deepEqual(fromJson("[9007199254740993, -9007199254740993]"), [9007199254740993n, -9007199254740993n]);
  assert.equal(fromJson('{"id": 1000000000000000}').id, 1000000000000000);
  assert.equal(fromJson(toJson({ seed: MAX_SEED })).seed, MAX_SEED);
});

test("JSON changes nothing else", () => {
  for (const value of [0.12345678901234567, 1.2345678901234567e-30, 1e300, "9223372036854775807", 'a "1234567890123456789" b', "\\", [null, true, {}]]) {
    assert.deepEqual(fromJson(JSON.stringify({ value, pad: 1234567890123456 })), { value, pad: 1234567890123456 });
  }
  assert.equal(fromJson("12345678901234567890123e-5"), 12345678901234567890123e-5);
});

test("numbers as text", () => {
  assert.deepEqual([0, 12, 0.123456, 1e-7, 123456.789, null, "x"].map(value => brief(value)), ["0", "12", "0.1235", "1.00e-7", "123500", "–", "x"]);
});

test("arrays", () => {
  const file = writeArray([2, 3], [1, 2, 3, 4, 5, 6.5]);
  assert.equal((file.length - 24) % 64, 0);
  const { shape, data } = readArray(file.buffer);
  assert.deepEqual([shape, [...data]], [[2, 3], [1, 2, 3, 4, 5, 6.5]]);
  assert.deepEqual(readArray(writeArray([3], [1, 2, 3]).buffer).shape, [3]);
  assert.throws(() => readArray(new ArrayBuffer(4)), /not a .npy file/);
});
