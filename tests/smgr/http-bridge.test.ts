/**
 * The bridge's bytes over HTTP: what is encoded is decoded the same, and what comes from anywhere is refused with `invalid`, never read past its end.
 */
import { describe, expect, it } from 'vitest';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { BlockNumber } from '../../engine/model/rel.ts';
import {
  decodeRequest,
  decodeStart,
  encodeRequest,
  encodeStart,
  httpBridgeVersion,
  parseOpenSession,
  requestBytesMax,
} from '../../smgr-plugin/bridge/http-bridge.ts';
import type { ComputeStart } from '../../smgr-plugin/bridge/io-host.ts';

const id = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) } as ComputeStart['id'];

const start: ComputeStart = {
  bridge: null,
  id,
  readOnly: false,
  term: 7,
  lsn: 0x1_6b5a_50a0 as Lsn,
  systemIdentifier: 7_123_456_789_012_345_678n,
  files: [
    { path: 'global', bytes: null },
    { path: 'global/pg_control', bytes: Uint8Array.of(1, 2, 3) },
  ],
  bootWal: [
    { lsn: 0x1_6b00_0000 as Lsn, bytes: Uint8Array.of(9, 9) },
    { lsn: 0x1_6b5a_4000 as Lsn, bytes: Uint8Array.of(8) },
  ],
  prewarm: [
    {
      rel: { spc: 1663, db: 5, rel: 1259, fork: 0 },
      relSize: 2 as BlockNumber,
      firstBlock: 0 as BlockNumber,
      pages: new Uint8Array(16384).fill(5),
    },
  ],
};

describe('a request', () => {
  const request = {
    op: 1,
    args: Float64Array.of(1663, 5, 16384, 0, 3, 16),
    walOffset: 2 ** 33,
    wal: Uint8Array.of(1, 2),
  };

  it('is decoded as it was encoded', () => {
    expect(decodeRequest(encodeRequest(request))).toEqual(request);
  });

  it('is refused when it is cut, longer than it says, or of another version', () => {
    const bytes = encodeRequest(request);
    const refused = (change: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array) =>
      expect(() => decodeRequest(change(bytes.slice()))).toThrow(/a bridge request/);
    for (let length = 0; length < bytes.length; length++) refused((whole) => whole.subarray(0, length));
    refused((whole) => Uint8Array.of(...whole, 0));
    refused(() => new Uint8Array(requestBytesMax + 1));
    const set = (offset: number, value: number) => (whole: Uint8Array<ArrayBuffer>) => {
      new DataView(whole.buffer).setUint32(offset, value, true);
      return whole;
    };
    refused(set(0, httpBridgeVersion + 1));
    refused(set(16, 0xffff_ffff));
    refused(set(20, 0xffff_ffff));
    refused((whole) => {
      new DataView(whole.buffer).setFloat64(8, Number.NaN, true);
      return whole;
    });
  });
});

describe('the start of a compute', () => {
  it('is decoded as it was encoded', () => {
    expect(decodeStart(encodeStart('name', start))).toEqual({ session: 'name', start });
  });

  it('is refused when it is cut anywhere', () => {
    const bytes = encodeStart('name', start);
    for (let length = 0; length < bytes.length; length += 7) {
      expect(() => decodeStart(bytes.slice(0, length))).toThrow();
    }
  });
});

describe('opening a session', () => {
  it('takes ids and an LSN, and nothing else for them', () => {
    expect(parseOpenSession({ ...id, readOnlyAt: '0/10' })).toEqual({ id, readOnlyAt: 16 });
    expect(parseOpenSession({ ...id, readOnlyAt: null })).toEqual({ id, readOnlyAt: null });
    for (const json of [null, {}, { ...id, tenantId: '../..' }, { ...id, timelineId: 5 }, { ...id, readOnlyAt: 'x' }]) {
      expect(() => parseOpenSession(json)).toThrow();
    }
  });
});
