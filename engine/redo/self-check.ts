/**
 * A record made by hand and the page that it must give: a heap insert that initialises block 7. If structs lie elsewhere in another
 * build of PGlite, this page comes out wrong (or Postgres refuses), and the redo instance does not start.
 */
import { messageOf, PageliteError } from '../errors.ts';
import { pageSize } from '../limits.ts';
import { lsn } from '../model/lsn.ts';
import { mainFork } from '../model/rel.ts';
import type { RedoRequest } from '../services.ts';
import { rmgr } from '../wal/wal-record.ts';

const rel = { spc: 1663, db: 5, rel: 77777, fork: mainFork } as const;
const block = 7;
const endLsn = lsn(0x1_2345_6780);
const tuple = Uint8Array.from({ length: 13 }, (_, i) => 200 + i);

export function selfCheck(redoPage: (request: RedoRequest) => Uint8Array): void {
  let page: Uint8Array;
  try {
    page = redoPage({ rel, block, base: null, lsns: [endLsn], records: [heapInsert()] });
  } catch (error) {
    throw new PageliteError('invalid', `this PGlite is not the one that WAL redo was written for: ${messageOf(error)}`);
  }
  const view = new DataView(page.buffer, page.byteOffset, pageSize);
  const item = view.getUint32(24, true);
  const at = item & 0x7fff;
  const checks = {
    'page LSN': view.getUint32(0, true) * 4294967296 + view.getUint32(4, true) === endLsn,
    pd_lower: view.getUint16(12, true) === 28,
    'item length': item >>> 17 === 23 + 1 + tuple.length,
    xmin: view.getUint32(at, true) === 4242,
    block: view.getUint16(at + 12, true) * 65536 + view.getUint16(at + 14, true) === block,
    data: tuple.every((byte, i) => page[at + 24 + i] === byte),
  };
  const wrong = Object.entries(checks).filter(([, right]) => !right);
  if (wrong.length > 0) {
    const names = wrong.map(([name]) => name).join(', ');
    throw new PageliteError('invalid', `this PGlite is not the one that WAL redo was written for: wrong ${names}`);
  }
}

/** XLOG_HEAP_INSERT | XLOG_HEAP_INIT_PAGE of one tuple of 13 bytes. */
function heapInsert(): Uint8Array {
  const header = 24 + 4 + 12 + 4 + 2;
  // xl_heap_header (t_infomask2, t_infomask, t_hoff), one byte of padding up to t_hoff = 24, the data.
  const data = new Uint8Array(5 + 1 + tuple.length);
  const dataView = new DataView(data.buffer);
  dataView.setUint16(0, 1, true);
  dataView.setUint16(2, 0x0800, true);
  data[4] = 24;
  data.set(tuple, 6);
  const main = new Uint8Array([1, 0, 0]);
  const record = new Uint8Array(header + data.length + main.length);
  const view = new DataView(record.buffer);
  view.setUint32(0, record.length, true);
  view.setUint32(4, 4242, true);
  record[16] = 0x80;
  record[17] = rmgr.heap;
  let at = 24;
  record[at] = 0;
  record[at + 1] = 0x20 | 0x40;
  view.setUint16(at + 2, data.length, true);
  view.setUint32(at + 4, rel.spc, true);
  view.setUint32(at + 8, rel.db, true);
  view.setUint32(at + 12, rel.rel, true);
  view.setUint32(at + 16, block, true);
  at += 20;
  record[at] = 255;
  record[at + 1] = main.length;
  at += 2;
  record.set(data, at);
  record.set(main, at + data.length);
  return record;
}
