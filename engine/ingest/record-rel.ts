/**
 * Relations that records name, as prefixes of keys. Tablespaces beside the two that every cluster has are refused here, as CREATE TABLESPACE is.
 */
import { PageliteError } from '../errors.ts';
import { type KeyPrefix, keyKind, keyPrefix } from '../model/key.ts';
import { formatLsn } from '../model/lsn.ts';
import { defaultTablespace, globalTablespace, initFork } from '../model/rel.ts';
import type { WalRecord } from '../wal/wal-record.ts';

/** Throws `invalid` unless it is pg_default or pg_global. */
export function checkTablespace(record: WalRecord, spc: number): void {
  if (spc === defaultTablespace || spc === globalTablespace) return;
  throw refused(record, `tablespace ${spc}: tablespaces are not supported`);
}

/** The prefix of a relation fork that `record` names. Hot: called for every block reference. */
export function recordRel(record: WalRecord, spc: number, db: number, rel: number, fork: number): KeyPrefix {
  if (spc !== defaultTablespace) checkTablespace(record, spc);
  // Relation 0 is where a database's own keys are (model/key.ts).
  if (fork < 0 || fork > initFork || rel === 0) throw refused(record, `relation ${spc}/${db}/${rel}, fork ${fork}`);
  return keyPrefix(keyKind.rel, spc, db, rel, fork);
}

function refused(record: WalRecord, why: string): PageliteError {
  const lsn = formatLsn(record.lsn);
  return new PageliteError('invalid', `cannot ingest WAL record at ${lsn}: ${why}`, { lsn, rmid: record.rmid });
}
