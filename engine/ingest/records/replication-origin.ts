/**
 * Resource manager ReplicationOrigin: how far a subscription, or whoever replays from elsewhere, has come. Formats: src/include/replication/origin.h.
 *
 * set   u64 remote LSN, u16 origin, u8 force
 * drop  u16 origin
 *
 * The same progress moves with every transaction that is replayed (records/transaction.ts). It is one short list under one key, and a basebackup
 * writes it out as pg_logical/replorigin_checkpoint.
 */
import { readLsn } from '../../model/lsn.ts';
import { corruptRecord } from '../../wal/parse-record.ts';
import type { WalRecord } from '../../wal/wal-record.ts';
import type { IngestContext } from '../ingest-context.ts';
import { unknownRecord } from '../unknown-record.ts';

export function ingestReplicationOrigin(context: IngestContext, record: WalRecord): void {
  const from = record.start + record.mainOffset;
  switch (record.info & 0xf0) {
    case 0x00:
      if (record.mainLength < 11) throw corruptRecord(record, 'progress of an origin is cut short');
      // Forced: also back.
      if (record.bytes[from + 10] !== 0)
        context.setOrigin(record.view.getUint16(from + 8, true), readLsn(record.view, from), record.endLsn);
      else context.advanceOrigin(record.view.getUint16(from + 8, true), readLsn(record.view, from), record.endLsn);
      return;
    case 0x10:
      if (record.mainLength < 2) throw corruptRecord(record, 'drop of an origin is cut short');
      context.dropOrigin(record.view.getUint16(from, true), record.endLsn);
      return;
    default:
      throw unknownRecord(record);
  }
}
