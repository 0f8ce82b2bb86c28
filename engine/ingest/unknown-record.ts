import { PageliteError } from '../errors.ts';
import { formatLsn } from '../model/lsn.ts';
import { rmgr, type WalRecord } from '../wal/wal-record.ts';

/** A record that this version does not know: the timeline stops here rather than lose what the record does. */
export function unknownRecord(record: WalRecord, why = 'unknown record type'): PageliteError {
  const name = Object.entries(rmgr).find(([, id]) => id === record.rmid)?.[0] ?? `resource manager ${record.rmid}`;
  return new PageliteError(
    'invalid',
    `cannot ingest WAL record at ${formatLsn(record.lsn)} (${name}, info 0x${record.info.toString(16)}): ${why}`,
    { lsn: formatLsn(record.lsn), rmid: record.rmid, info: record.info },
  );
}
