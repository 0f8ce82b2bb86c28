/**
 * Resource managers CLOG and MultiXact: pages of SLRUs begun and cut, multixacts created.
 * Formats: src/include/access/{clog,multixact}.h, src/backend/access/transam/{clog,multixact}.c.
 *
 * zero page   i64 page number
 * clog cut    i64 page number of the oldest page kept, u32 oldest xid, u32 its database
 * create      u32 multi, u32 first member's offset, i32 count, then (u32 xid, u32 status) each
 * cut         u32 oldest database, u32 start and end multi, u32 start and end member offset
 */
import { slruSegmentBlocks } from '../../limits.ts';
import { corruptRecord } from '../../wal/parse-record.ts';
import type { WalRecord } from '../../wal/wal-record.ts';
import type { IngestContext } from '../ingest-context.ts';
import { membersPerPage, memberWritePatch, slruWritePatch } from '../patch.ts';
import { unknownRecord } from '../unknown-record.ts';

const offsetsPerPage = 2048;
const two32 = 4294967296;

export function ingestClog(context: IngestContext, record: WalRecord): void {
  const { view } = record;
  const from = record.start + record.mainOffset;
  switch (record.info & 0xf0) {
    case 0x00:
      if (record.mainLength < 8) throw corruptRecord(record, 'page number is cut short');
      context.clog.zeroPage(Number(view.getBigInt64(from, true)), record.endLsn);
      return;
    case 0x10: {
      if (record.mainLength < 16) throw corruptRecord(record, 'truncation is cut short');
      const cutoff = Number(view.getBigInt64(from, true));
      context.checkpoint.clogTruncated(view.getUint32(from + 8, true), view.getUint32(from + 12, true));
      const pages = two32 / 32768;
      // Pages are compared on the circle of 2^32 xids, as CLOGPagePrecedes does.
      context.clog.truncate((segment) => {
        const last = segment * slruSegmentBlocks + slruSegmentBlocks - 1;
        const ahead = (((cutoff - last) % pages) + pages) % pages;
        return ahead > 0 && ahead < pages / 2;
      }, record.endLsn);
      return;
    }
    default:
      throw unknownRecord(record);
  }
}

export function ingestMultixact(context: IngestContext, record: WalRecord): void | Promise<void> {
  const { view } = record;
  const from = record.start + record.mainOffset;
  switch (record.info & 0xf0) {
    case 0x00:
    case 0x10: {
      if (record.mainLength < 8) throw corruptRecord(record, 'page number is cut short');
      const page = Number(view.getBigInt64(from, true));
      const slru = (record.info & 0xf0) === 0 ? context.multiOffsets : context.multiMembers;
      slru.zeroPage(page, record.endLsn);
      return;
    }
    case 0x20:
      return createMulti(context, record);
    case 0x30:
      truncateMultis(context, record);
      return;
    default:
      throw unknownRecord(record);
  }
}

function createMulti(context: IngestContext, record: WalRecord): void | Promise<void> {
  const { view, endLsn: lsn } = record;
  const from = record.start + record.mainOffset;
  if (record.mainLength < 12) throw corruptRecord(record, 'multixact is cut short');
  const multi = view.getUint32(from, true);
  const offset = view.getUint32(from + 4, true);
  const count = view.getInt32(from + 8, true);
  if (count < 1 || record.mainLength < 12 + count * 8) throw corruptRecord(record, `multixact of ${count} members`);

  // PostgreSQL also writes the next multixact's offset, so that readers of this one know its length.
  const next = (multi + 1) % two32 || 1;
  const nextOffset = (offset + count) % two32 || 1;
  const pending: (void | Promise<void>)[] = [];
  for (const [id, value] of [
    [multi, offset],
    [next, nextOffset],
  ] as const) {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    const page = Math.floor(id / offsetsPerPage);
    pending.push(context.multiOffsets.patch(page, lsn, slruWritePatch((id % offsetsPerPage) * 4, bytes)));
  }

  const pages = new Map<number, { index: number; status: number; xid: number }[]>();
  for (let i = 0; i < count; i++) {
    const xid = view.getUint32(from + 12 + i * 8, true);
    const status = view.getUint32(from + 16 + i * 8, true);
    context.checkpoint.sawXid(xid);
    const member = (offset + i) % two32;
    const page = Math.floor(member / membersPerPage);
    const entry = { index: member % membersPerPage, status, xid };
    const list = pages.get(page);
    if (list === undefined) pages.set(page, [entry]);
    else list.push(entry);
  }
  for (const [page, members] of pages) pending.push(context.multiMembers.patch(page, lsn, memberWritePatch(members)));
  context.checkpoint.sawMulti(multi, offset, count);
  if (pending.some((one) => one !== undefined)) return Promise.all(pending).then(() => {});
}

function truncateMultis(context: IngestContext, record: WalRecord): void {
  const { view } = record;
  const from = record.start + record.mainOffset;
  if (record.mainLength < 20) throw corruptRecord(record, 'truncation is cut short');
  const db = view.getUint32(from, true);
  const endMulti = view.getUint32(from + 8, true);
  const startMember = view.getUint32(from + 12, true);
  const endMember = view.getUint32(from + 16, true);
  context.checkpoint.multisTruncated(endMulti, db);
  const offsetsPerSegment = offsetsPerPage * slruSegmentBlocks;
  const keepOffsets = Math.floor((endMulti === 1 ? 0 : endMulti - 1) / offsetsPerSegment);
  const offsetSegments = Math.ceil(two32 / offsetsPerSegment);
  context.multiOffsets.truncate((segment) => before(segment, keepOffsets, offsetSegments), record.endLsn);
  // As PerformMembersTruncation: every segment from the start's up to, not including, the end's.
  const membersPerSegment = membersPerPage * slruSegmentBlocks;
  const memberSegments = Math.ceil(two32 / membersPerSegment);
  const first = Math.floor(startMember / membersPerSegment);
  const dead = (Math.floor(endMember / membersPerSegment) - first + memberSegments) % memberSegments;
  context.multiMembers.truncate((segment) => (segment - first + memberSegments) % memberSegments < dead, record.endLsn);
}

/** On a circle of `count` segments: `segment` lies behind `keep`. */
function before(segment: number, keep: number, count: number): boolean {
  const ahead = (keep - segment + count) % count;
  return ahead > 0 && ahead < count / 2;
}
