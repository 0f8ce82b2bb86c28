/**
 * DIR/faults.json: what a test lets go wrong in a process that runs (faulty-pageserver.ts). It is replaced as one, so that the process never reads half.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FaultPlan } from './faulty-object-store.ts';

const pathOf = (dir: string): string => join(dir, 'faults.json');

export function writeFaultPlan(dir: string, plan: FaultPlan): void {
  const path = pathOf(dir);
  writeFileSync(`${path}.new`, JSON.stringify(plan));
  renameSync(`${path}.new`, path);
}

/** Nothing goes wrong from here on. */
export function removeFaultPlan(dir: string): void {
  rmSync(pathOf(dir), { force: true });
}

/** The plan as text, or null if there is none. */
export function readFaultPlan(dir: string): string | null {
  try {
    return readFileSync(pathOf(dir), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
