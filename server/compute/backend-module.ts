/**
 * Opens the PGlite of an endpoint in its worker thread (compute-worker.ts loads this): storage through the bridge, PostgreSQL's log to a file
 * descriptor, as this thread never goes back to an event loop that could carry it.
 */
import { writeSync } from 'node:fs';
import type { ComputeStart } from '../../smgr-plugin/bridge/io-host.ts';
import { openCompute } from '../../smgr-plugin/compute.ts';
import type { PGliteArtefacts } from '../process/pglite-artefacts.ts';
import type { OpenedBackend } from './compute-worker.ts';

export interface BackendData {
  readonly start: ComputeStart;
  readonly artefacts: PGliteArtefacts;
  readonly serverLogFd: number;
}

export async function openBackend(data: unknown): Promise<OpenedBackend> {
  const { start, artefacts, serverLogFd } = data as BackendData;
  return openCompute(start, {
    artefacts,
    username: 'cloud_admin',
    onServerLog: (line) => writeSync(serverLogFd, `${line}\n`),
  });
}
