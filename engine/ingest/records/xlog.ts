/**
 * Resource manager XLOG: checkpoints and oids. Full-page images are page records like any other. Formats: src/include/catalog/pg_control.h.
 */
import { corruptRecord } from '../../wal/parse-record.ts';
import type { WalRecord } from '../../wal/wal-record.ts';
import { checkpointBytes } from '../checkpoint-state.ts';
import type { IngestContext } from '../ingest-context.ts';
import { unknownRecord } from '../unknown-record.ts';

const info = {
  checkpointShutdown: 0x00,
  checkpointOnline: 0x10,
  noop: 0x20,
  nextOid: 0x30,
  switch: 0x40,
  backupEnd: 0x50,
  parameterChange: 0x60,
  restorePoint: 0x70,
  fpwChange: 0x80,
  endOfRecovery: 0x90,
  fpiForHint: 0xa0,
  fpi: 0xb0,
  overwriteContrecord: 0xd0,
  checkpointRedo: 0xe0,
} as const;

/** xl_parameter_change: five i32 and wal_level, then two booleans; the last is track_commit_timestamp. */
const parameterChangeTrackOffset = 25;

export function ingestXlog(context: IngestContext, record: WalRecord): void {
  const from = record.start + record.mainOffset;
  switch (record.info & 0xf0) {
    case info.checkpointShutdown:
    case info.checkpointOnline:
      if (record.mainLength !== checkpointBytes)
        throw corruptRecord(record, `checkpoint of ${record.mainLength} bytes`);
      context.checkpoint.checkpoint(record.view, from, (record.info & 0xf0) === info.checkpointShutdown);
      return;
    case info.nextOid:
      if (record.mainLength < 4) throw corruptRecord(record, 'next oid is cut short');
      context.checkpoint.nextOid = record.view.getUint32(from, true);
      return;
    case info.parameterChange:
      if (record.mainLength > parameterChangeTrackOffset && record.bytes[from + parameterChangeTrackOffset] === 1) {
        throw unknownRecord(record, 'track_commit_timestamp is not supported');
      }
      return;
    case info.fpi:
    case info.fpiForHint:
      // Pages only; their images are stored with the block references.
      return;
    case info.noop:
    case info.switch:
    case info.backupEnd:
    case info.restorePoint:
    case info.fpwChange:
    case info.endOfRecovery:
    case info.overwriteContrecord:
    case info.checkpointRedo:
      // Nothing to store: positions and settings of recovery, which a compute that boots from a basebackup never does.
      return;
    default:
      throw unknownRecord(record);
  }
}
