/**
 * The bytes of what ingest stores are pinned: values written by this version are read by later ones. A change of these bytes is a new format,
 * with a new version byte or patch type beside the old.
 */
import { describe, expect, it } from 'vitest';
import {
  applyPatches,
  memberWritePatch,
  slruWritePatch,
  vmClearPatch,
  vmTruncatePatch,
  xactStatusPatch,
} from '../../engine/ingest/patch.ts';
import { directoryPatch, RelDirectory } from '../../engine/ingest/rel-directory.ts';
import { encodeSize } from '../../engine/ingest/rel-sizes.ts';
import {
  decodeDatabases,
  decodeOrigins,
  decodePrepared,
  decodeSegments,
  encodeDatabases,
  encodeOrigins,
  encodePrepared,
  encodeSegments,
} from '../../engine/ingest/small-directories.ts';
import { relDirectoryKey } from '../../engine/model/key.ts';
import type { Lsn } from '../../engine/model/lsn.ts';

const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
const bytesOf = (text: string): Uint8Array => Uint8Array.from(text.match(/../g)!, (byte) => Number.parseInt(byte, 16));

const directory = new RelDirectory();
directory.add(16384, 0);
directory.add(1259, 2);

const golden: [name: string, bytes: Uint8Array, expected: string][] = [
  ['vmClear', vmClearPatch(0x01020304, 3), '010403020103'],
  ['vmTruncate', vmTruncatePatch(0x01020304), '0204030201'],
  [
    'xactStatus',
    xactStatusPatch(1, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), [5, 32767]),
    '03010102030405060708' + '0500' + 'ff7f',
  ],
  ['slruWrite', slruWritePatch(0x0102, Uint8Array.of(9, 8)), '04020102000908'],
  ['directory', directoryPatch(true, 0x01020304, 2), '05010403020102'],
  ['memberWrite', memberWritePatch([{ index: 0x0102, status: 5, xid: 0x0a0b0c0d }]), '060201050d0c0b0a'],
  ['size', encodeSize(0x01020304), '04030201'],
  ['relation directory', directory.encode(), '01' + 'eb04000002' + '0040000000'],
  ['databases', encodeDatabases([{ spc: 1663, db: 5 }]), '01' + '7f06000005000000'],
  ['segments', encodeSegments([300, 1]), '01' + '01000000' + '2c010000'],
  ['prepared transactions', encodePrepared([4294967296 * 3 + 5]), '01' + '0500000003000000'],
  ['replication origins', encodeOrigins(new Map([[2, 0x500000001 as Lsn]])), '01' + '0200' + '0100000005000000'],
];

describe('golden bytes', () => {
  for (const [name, bytes, expected] of golden) {
    it(name, () => expect(hex(bytes)).toBe(expected));
  }

  it('are read back', () => {
    expect(RelDirectory.decode(bytesOf('01eb040000020040000000')).list()).toEqual([
      { rel: 1259, fork: 2 },
      { rel: 16384, fork: 0 },
    ]);
    expect(decodeDatabases(bytesOf('017f06000005000000'))).toEqual([{ spc: 1663, db: 5 }]);
    expect(decodeSegments(bytesOf('01010000002c010000'))).toEqual([1, 300]);
    expect(decodePrepared(bytesOf('010500000003000000'))).toEqual([4294967296 * 3 + 5]);
    expect([...decodeOrigins(bytesOf('0102000100000005000000'))]).toEqual([[2, 0x500000001]]);
  });

  it('of another version or length are refused', () => {
    for (const decode of [decodeDatabases, decodeSegments, decodePrepared, decodeOrigins, RelDirectory.decode]) {
      expect(() => decode(bytesOf('02'))).toThrow(/version 2/);
      expect(() => decode(bytesOf('0101'))).toThrow(/2 bytes/);
    }
    const { prefix, block } = relDirectoryKey(1663, 5);
    for (const patch of ['05010403', '0801', '050104030201', '03']) {
      expect(() => applyPatches(prefix, block, null, [bytesOf(patch)])).toThrow(/invalid patch of key/);
    }
  });
});
