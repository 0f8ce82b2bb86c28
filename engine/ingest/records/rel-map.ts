/**
 * Resource manager RelMap: a database's pg_filenode.map, whole. Formats: src/include/utils/relmapper.h.
 *
 * update  u32 database (0: the shared one), u32 tablespace, i32 length, then the file's bytes
 */
import { relMapKey } from '../../model/key.ts';
import type { WalRecord } from '../../wal/wal-record.ts';
import type { IngestContext } from '../ingest-context.ts';
import { checkTablespace } from '../record-rel.ts';
import { unknownRecord } from '../unknown-record.ts';

export function ingestRelMap(context: IngestContext, record: WalRecord): void {
  if ((record.info & 0xf0) !== 0 || record.mainLength < 12) throw unknownRecord(record);
  const { view } = record;
  const from = record.start + record.mainOffset;
  const spc = view.getUint32(from + 4, true);
  const length = view.getInt32(from + 8, true);
  if (length < 0 || 12 + length > record.mainLength) throw unknownRecord(record, `relation map of ${length} bytes`);
  checkTablespace(record, spc);
  const { prefix, block } = relMapKey(spc, view.getUint32(from, true));
  context.sink.putImage(prefix, block, record.endLsn, record.bytes.subarray(from + 12, from + 12 + length));
}
