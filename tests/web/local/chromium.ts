/**
 * Modules of the sources in a real Chromium, each in a dedicated worker of a page: for tests of what runs in a tab without a page of its own.
 *
 * Vite serves the sources as they are; the page is cross-origin isolated. A worker's module answers calls (`serveCalls` in calls.ts); a profile folder
 * outlives its browser, so that a browser can be killed and started again over what it stored.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type BrowserContext, type CDPSession, chromium, type Page } from 'playwright-core';
import { createServer, type Plugin, type ViteDevServer } from 'vite';
import { encodeTemplate } from '../../../engine/basebackup/tenant-template.ts';
import { PageliteError } from '../../../engine/errors.ts';
import { testTemplate } from '../../support/test-template.ts';
import { chromiumPath } from '../support/chromium.ts';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '../../..');
const chromiumArgs = ['--no-sandbox', '--disable-quic', '--disable-background-networking'];

const isolation = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

/** A page with a worker; `call` rejects with what the worker's method threw. */
export interface TabWorker {
  readonly page: Page;
  call<T>(method: string, ...args: unknown[]): Promise<T>;
}

export class Chromium {
  readonly #vite: ViteDevServer;
  readonly #folder: string;
  readonly #context: BrowserContext;
  #quota: CDPSession | null = null;
  /** What pages and workers wrote to the console. */
  readonly console: string[] = [];

  private constructor(vite: ViteDevServer, folder: string, context: BrowserContext) {
    this.#vite = vite;
    this.#folder = folder;
    this.#context = context;
  }

  static async launch(): Promise<Chromium> {
    const folder = await mkdtemp(join(tmpdir(), 'pagelite-chromium-'));
    const vite = await createServer({
      configFile: false,
      root,
      cacheDir: join(folder, 'vite'),
      logLevel: 'error',
      appType: 'mpa',
      // The contract suites are written for vitest; here this takes its part.
      resolve: { alias: { vitest: join(here, 'suite.ts') } },
      optimizeDeps: { noDiscovery: true, include: [] },
      worker: { format: 'es' },
      plugins: [templatePlugin()],
      server: { host: '127.0.0.1', port: 0, hmr: false, ws: false, watch: null, headers: isolation },
    });
    await vite.listen();
    return new Chromium(vite, folder, await launchContext(folder));
  }

  get context(): BrowserContext {
    return this.#context;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#vite.httpServer!.address() as AddressInfo).port}`;
  }

  /** Opens a page whose worker runs `module` (tab.ts). `onAcknowledged` hears of rows that were inserted. */
  async open(module: string, onAcknowledged?: (id: number) => void): Promise<TabWorker> {
    const page = await this.#context.newPage();
    if (onAcknowledged) await page.exposeFunction('acknowledge', onAcknowledged);
    page.on('console', (message) => {
      // Vite's client misses its socket, which tests do not need.
      if (!/vite|WebSocket connection to '[^']*token=|\(browser\)/.test(message.text()))
        this.console.push(message.text());
    });
    page.on('pageerror', (error) => this.console.push(String(error)));
    await page.goto(`${this.origin}/tests/web/local/tab.html?worker=${module}`);
    return tabWorker(page);
  }

  /** Kills the page's process, and its workers with it, as a crash or a lack of memory would. */
  async crash({ page }: TabWorker): Promise<void> {
    const crashed = page.waitForEvent('crash');
    const session = await this.#context.newCDPSession(page);
    // The process is gone before it could answer.
    session.send('Page.crash').catch(() => {});
    await crashed;
    await page.close();
  }

  /** How much this origin may store, from now on; null: what the browser gives. */
  async setQuota({ page }: TabWorker, quotaSize: number | null): Promise<void> {
    // It holds as long as its session.
    this.#quota ??= await this.#context.newCDPSession(page);
    const { origin } = this;
    await this.#quota.send('Storage.overrideQuotaForOrigin', { origin, ...(quotaSize !== null && { quotaSize }) });
    if (quotaSize === null) {
      await this.#quota.detach();
      this.#quota = null;
    }
  }

  async close(): Promise<void> {
    await this.#context.close();
    await this.#vite.close();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** The tenant template at /template.bin: initdb takes seconds in each repository that makes its own. */
function templatePlugin(): Plugin {
  return {
    name: 'pagelite-template',
    configureServer({ middlewares }) {
      middlewares.use('/template.bin', (_request, response, next) => {
        testTemplate().then((template) => response.end(encodeTemplate(template)), next);
      });
    },
  };
}

export function tabWorker(page: Page): TabWorker {
  return {
    page,
    async call<T>(method: string, ...args: unknown[]): Promise<T> {
      type Caller = { call(method: string, args: unknown[]): Promise<{ value?: unknown; error?: unknown }> };
      const made = { method, args };
      const answer = await page.evaluate((m) => (globalThis as unknown as Caller).call(m.method, m.args), made);
      if (answer.error !== undefined) throw PageliteError.fromJSON(answer.error);
      return answer.value as T;
    },
  };
}

async function launchContext(folder: string): Promise<BrowserContext> {
  const options = { executablePath: chromiumPath(), args: chromiumArgs, headless: true };
  return chromium.launchPersistentContext(join(folder, 'profile'), options);
}
