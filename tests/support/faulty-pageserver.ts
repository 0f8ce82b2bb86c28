/**
 * The pageserver process with faults between it and its store: `node faulty-pageserver.js -D DIR ...`, as server/pageserver/main.js.
 *
 * What goes wrong is in DIR/faults.json (fault-plan-file.ts), which is read anew for each operation, so that a test decides while the process runs. A process
 * that ends here ends as by SIGKILL: nothing of it runs any more.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PageliteError } from '../../engine/errors.ts';
import { parsePageserverArgs } from '../../server/pageserver/config.ts';
import { startPageserver } from '../../server/pageserver/pageserver-server.ts';
import { createLog } from '../../server/process/log.ts';
import { runProcess } from '../../server/process/run-process.ts';
import { readFaultPlan } from './fault-plan-file.ts';
import {
  type FaultPlan,
  type Faults,
  FaultyObjectStore,
  objectKind,
  type StoreOperation,
} from './faulty-object-store.ts';

class PlannedFaults implements Faults {
  readonly #dir: string;
  #plan: string | null = null;
  #seen = 0;

  constructor(dir: string) {
    this.#dir = dir;
  }

  async before(operation: StoreOperation, key: string): Promise<void> {
    const plan = this.#read();
    if (plan === null) return;
    if (plan.kind === 'unreliable') {
      await sleep(Math.random() * plan.delayMsMax);
      if (Math.random() < plan.failing) throw failure(operation, key);
      return;
    }
    if (isStep(plan, operation, key) && plan.when === 'before' && ++this.#seen === plan.nth) this.#end();
  }

  async after(operation: StoreOperation, key: string): Promise<void> {
    const plan = this.#read();
    if (plan === null) return;
    if (plan.kind === 'unreliable') {
      if (Math.random() < plan.failing) throw failure(operation, key);
      return;
    }
    if (isStep(plan, operation, key) && plan.when === 'after' && ++this.#seen === plan.nth) this.#end();
  }

  #read(): FaultPlan | null {
    const text = readFaultPlan(this.#dir);
    if (text !== this.#plan) this.#seen = 0;
    this.#plan = text;
    return text === null ? null : JSON.parse(text);
  }

  #end(): void {
    writeFileSync(join(this.#dir, 'ended'), '');
    process.kill(process.pid, 'SIGKILL');
  }
}

const isStep = (plan: FaultPlan & { kind: 'end' }, operation: StoreOperation, key: string): boolean =>
  operation === plan.operation && objectKind(key) === plan.object;

const failure = (operation: StoreOperation, key: string) =>
  new PageliteError('unavailable', `object ${key}: made to fail at ${operation}`, { file: key });

const config = parsePageserverArgs(process.argv.slice(2));
mkdirSync(config.dir, { recursive: true });
const log = createLog('pageserver', { level: 'info' });
const faults = new PlannedFaults(config.dir);
await runProcess('pageserver', config.dir, log, async (progress) => {
  const around = (store: ConstructorParameters<typeof FaultyObjectStore>[0]) => new FaultyObjectStore(store, faults);
  const server = await startPageserver({ ...config, log, progress, around });
  return { info: { ...server.ports }, close: () => server.close() };
});
