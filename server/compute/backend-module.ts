/**
 * Opens the PGlite of an endpoint in its worker thread (compute-worker.ts loads this): storage through the bridge, PostgreSQL's log written
 * synchronously, as this thread never goes back to an event loop that could carry it.
 */
import { openSync, writeSync } from 'node:fs';
import type { Log } from '../../engine/services.ts';
import type { ComputeStart } from '../../smgr-plugin/bridge/io-host.ts';
import { type Compute, openCompute } from '../../smgr-plugin/compute.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import type { OpenedBackend } from './compute-worker.ts';
import { contribFiles } from './contrib.ts';
import { FileSpill } from './file-spill.ts';

const standardOutput = 1;

export interface BackendData {
  readonly start: ComputeStart;
  readonly artefacts: PGliteArtefacts;
  /** Absent: standard output. */
  readonly serverLogPath?: string;
}

export async function openBackend(data: unknown, log: Log): Promise<OpenedBackend> {
  const { start, artefacts, serverLogPath } = data as BackendData;
  const serverLog = serverLogPath === undefined ? standardOutput : openSync(serverLogPath, 'a');
  const compute = await openCompute(start, {
    artefacts,
    spill: new FileSpill(),
    extensions: { contrib: contribFiles() },
    log,
    onServerLog: (line) => writeSync(serverLog, `${line}\n`),
  });
  await becomeAdmin(compute, start.readOnly);
  return compute;
}

/** A database that was imported has no cloud_admin until its first endpoint starts; a read-only one serves it as its own superuser. */
async function becomeAdmin(compute: Compute, readOnly: boolean): Promise<void> {
  const { rows } = await compute.query("select from pg_catalog.pg_roles where rolname = 'cloud_admin'");
  if (rows.length === 0) {
    if (readOnly) return;
    await compute.exec('create role cloud_admin superuser createdb createrole replication bypassrls login');
  }
  await compute.exec('set role cloud_admin');
}
