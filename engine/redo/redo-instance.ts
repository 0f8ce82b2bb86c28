/**
 * An idle PGlite whose Postgres serves as a library of redo functions.
 *
 * Booted from the tenant template at an LSN later than any WAL (so that flushing any page finds its WAL "flushed" already), with few buffers and
 * a transaction open, so that pins have an owner. It never writes WAL and is never asked for data.
 */
import { PGlite, type PGliteOptions } from '@electric-sql/pglite';
import { assert, must } from '../assert.ts';
import { emptyFolders } from '../basebackup/basebackup.ts';
import { computeStartParams } from '../basebackup/compute-params.ts';
import { bootWal, checkpointOf, controlFileAt } from '../basebackup/control-data.ts';
import { PageliteError } from '../errors.ts';
import { walSegmentSize } from '../limits.ts';
import { invalidLsn, type Lsn } from '../model/lsn.ts';
import type { Log, TenantTemplate } from '../services.ts';
import { segmentFileName } from '../wal/wal-page.ts';
import { redoDatabase } from './redo-files.ts';
import { bufferDesc, memoryContext } from './rmgr-abi.ts';

/** 4 PiB: the redo instance lives here. Exact as a JavaScript number, far beyond any WAL. */
export const farLsn = 0x10_0000_0000_0000 as Lsn;

const settings = [
  'shared_buffers=256kB',
  'backend_flush_after=0',
  'bgwriter_flush_after=0',
  'checkpoint_flush_after=0',
  'wal_buffers=32kB',
];

/** The exit status by which this build's siglongjmp to the main loop surfaces. */
const mainLongJmp = 100;

type Exports = Record<string, unknown>;
type Instantiated = (instance: WebAssembly.Instance, module: WebAssembly.Module) => void;

/** The module's parts that redo needs. PGlite's own types leave its exports open. */
export interface RedoModule {
  readonly HEAPU8: Uint8Array;
  UTF8ToString(pointer: number): string;
  stackSave(): number;
  stackRestore(stack: number): void;
  _PostgresMainLongJmp(): void;
}

export class RedoInstance {
  readonly pg: PGlite;
  readonly module: RedoModule;
  readonly #exports: Exports;
  readonly #log: string[];
  #words: Uint32Array = new Uint32Array(0);

  private constructor(pg: PGlite, exports: Exports, log: string[]) {
    this.pg = pg;
    this.module = pg.Module as unknown as RedoModule;
    this.#exports = exports;
    this.#log = log;
  }

  static async boot(
    template: TenantTemplate,
    artefacts: Pick<PGliteOptions, 'pgliteWasmModule' | 'fsBundle'>,
    log: Log,
  ): Promise<RedoInstance> {
    let exports: Exports | null = null;
    let module: PGlite | null = null;
    const lines: string[] = [];
    const keep = (line: string) => {
      lines.push(line);
      if (lines.length > 20) lines.shift();
    };
    const pg = await PGlite.create({
      ...artefacts,
      startParams: computeStartParams(settings),
      fs: {
        async init(pglite: PGlite, emscriptenOpts) {
          module = pglite;
          const instantiate = emscriptenOpts.instantiateWasm as (
            imports: WebAssembly.Imports,
            done: Instantiated,
          ) => object;
          return {
            emscriptenOpts: {
              ...emscriptenOpts,
              printErr: keep,
              instantiateWasm: (imports: WebAssembly.Imports, done: Instantiated) =>
                instantiate(imports, (instance: WebAssembly.Instance, compiled: WebAssembly.Module) => {
                  exports = instance.exports;
                  done(instance, compiled);
                }),
            },
          };
        },
        async initialSyncFs() {
          writeDataDirectory(must(module), template);
        },
        async syncToFs() {},
        async closeFs() {},
        async dumpTar(): Promise<File> {
          throw new PageliteError('invalid', 'the redo instance holds no data');
        },
      },
    });
    await pg.exec('begin');
    await pg.query('select 1');
    log.debug('redo instance booted');
    return new RedoInstance(pg, must<Exports>(exports), lines);
  }

  function(name: string): (...args: number[]) => number {
    const found = this.#exports[name];
    assert(typeof found === 'function', `PGlite does not export ${name}`);
    return found as (...args: number[]) => number;
  }

  /** Address of an exported global variable. */
  global(name: string): number {
    const found = this.#exports[name];
    assert(found instanceof WebAssembly.Global, `PGlite does not export ${name}`);
    return Number(found.value);
  }

  tableFunction(index: number): (...args: number[]) => number {
    const table = this.#exports.__indirect_function_table;
    assert(table instanceof WebAssembly.Table);
    return table.get(index);
  }

  /** Memory as 32-bit words. Memory that has grown is another buffer, so the view is not kept over calls into the module. */
  get words(): Uint32Array {
    const { buffer } = this.module.HEAPU8;
    if (buffer !== this.#words.buffer) this.#words = new Uint32Array(buffer);
    return this.#words;
  }

  word(address: number): number {
    return this.words[address >> 2]!;
  }

  setWord(address: number, value: number): void {
    this.words[address >> 2] = value;
  }

  /** The memory context that Postgres resets before each message: what redo allocates goes there. */
  messageContext(): number {
    const top = this.word(this.global('TopMemoryContext'));
    for (
      let child = this.word(top + memoryContext.firstChild);
      child !== 0;
      child = this.word(child + memoryContext.nextChild)
    ) {
      if (this.module.UTF8ToString(this.word(child + memoryContext.name)) === 'MessageContext') return child;
    }
    throw new PageliteError('invalid', 'this PGlite lays out memory contexts in another way');
  }

  /** Checks that buffer descriptors are where they are believed to be. */
  checkBuffers(): void {
    const descriptors = this.word(this.global('BufferDescriptors'));
    const count = this.word(this.global('NBuffers'));
    for (let i = 0; i < count; i++) {
      if (this.word(descriptors + i * bufferDesc.bytes + bufferDesc.id) !== i) {
        throw new PageliteError('invalid', 'this PGlite lays out buffer descriptors in another way');
      }
    }
  }

  /**
   * After an ereport(ERROR) left the module as an exception: lets Postgres clean up as its main loop would, and opens a new transaction.
   * `stack` is the stack pointer from before the call. Throws if `error` is anything else (PANIC, a trap): then the instance is lost.
   */
  recover(error: unknown, stack: number): void {
    if ((error as { status?: number } | null)?.status !== mainLongJmp) throw error;
    this.module.stackRestore(stack);
    this.module._PostgresMainLongJmp();
    this.#simpleQuery('rollback');
    this.#simpleQuery('begin');
  }

  #simpleQuery(sql: string): void {
    const text = new TextEncoder().encode(sql);
    const message = new Uint8Array(6 + text.length);
    message[0] = 81;
    new DataView(message.buffer).setUint32(1, 5 + text.length);
    message.set(text, 5);
    this.pg.execProtocolRawSync(message);
  }

  /** Postgres's last words. */
  lastLog(): string {
    return this.#log.splice(0).join('\n');
  }
}

function writeDataDirectory(pg: PGlite, template: TenantTemplate): void {
  const { FS } = pg.Module;
  const root = '/pglite/data';
  FS.mkdirTree(root);
  for (const path of emptyFolders) FS.mkdirTree(`${root}/${path}`);
  let control: Uint8Array | null = null;
  for (const { path, bytes } of template.files) {
    // Other databases are not needed.
    if (path.startsWith('base/') && !path.startsWith(`base/${redoDatabase}`)) continue;
    if (bytes === null) FS.mkdirTree(`${root}/${path}`);
    else if (path === 'global/pg_control') control = controlFileAt(bytes, checkpointOf(bytes), farLsn);
    else FS.writeFile(`${root}/${path}`, bytes, { mode: 0o600 });
  }
  FS.writeFile(`${root}/global/pg_control`, must(control), { mode: 0o600 });
  for (const { lsn, bytes } of bootWal(must(control), farLsn, invalidLsn)) {
    const segment = new Uint8Array(walSegmentSize);
    segment.set(bytes, lsn % walSegmentSize);
    FS.writeFile(`${root}/pg_wal/${segmentFileName(lsn)}`, segment, { mode: 0o600 });
  }
  FS.chmod(root, 0o700);
}
