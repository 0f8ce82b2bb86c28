/** An instance whose memory is laid out otherwise does not start: every part of the page that the self-check's record makes is looked at. */
import { describe, expect, it } from 'vitest';
import { isPageliteError } from '../../engine/errors.ts';
import { pageSize } from '../../engine/limits.ts';
import { selfCheck } from '../../engine/redo/self-check.ts';
import type { RedoRequest } from '../../engine/services.ts';
import { parseRecord } from '../../engine/wal/parse-record.ts';
import { WalRecord } from '../../engine/wal/wal-record.ts';

/** What Postgres's heap_redo makes of the record: one tuple at the page's end. */
function heapInsert({ records, lsns, block }: RedoRequest): Uint8Array {
  const record = new WalRecord();
  record.bytes = records[0]!;
  record.view = new DataView(record.bytes.buffer);
  parseRecord(record);
  const { dataOffset, dataLength } = record.blocks[0]!;
  const data = record.bytes.subarray(dataOffset + 5, dataOffset + dataLength);
  const page = new Uint8Array(pageSize);
  const view = new DataView(page.buffer);
  const length = 23 + data.length;
  const at = pageSize - ((length + 7) & ~7);
  view.setUint32(0, Math.floor(lsns[0]! / 4294967296), true);
  view.setUint32(4, lsns[0]! % 4294967296, true);
  view.setUint16(12, 28, true);
  view.setUint16(14, at, true);
  view.setUint32(24, at | (1 << 15) | (length << 17), true);
  view.setUint32(at, record.xid, true);
  view.setUint16(at + 12, block >>> 16, true);
  view.setUint16(at + 14, block & 0xffff, true);
  page.set(data, at + 23);
  return page;
}

describe('self-check of the redo instance', () => {
  it('accepts the page that heap_redo makes', () => {
    expect(() => selfCheck(heapInsert)).not.toThrow();
  });

  it.each([
    ['page LSN', 4],
    ['pd_lower', 12],
    ['xmin', pageSize - 40],
    ['block', pageSize - 40 + 14],
    ['data', pageSize - 40 + 30],
  ])('refuses a page with another %s', (name, offset) => {
    const wrong = (request: RedoRequest) => {
      const page = heapInsert(request);
      page[offset]! ^= 1;
      return page;
    };
    let error: unknown = null;
    try {
      selfCheck(wrong);
    } catch (caught) {
      error = caught;
    }
    expect(isPageliteError(error, 'invalid')).toBe(true);
    expect(String(error)).toContain(name);
  });

  it('refuses a build whose redo fails', () => {
    const fails = () => {
      throw new Error('PANIC: what is this');
    };
    expect(() => selfCheck(fails)).toThrow(/not the one that WAL redo was written for: PANIC: what is this/);
  });
});
