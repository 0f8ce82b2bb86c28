/** Requests to a repository's console server, as a page makes them and as one never would. */
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { runningPid } from '../../server/process/pid-file.ts';

export interface Answer<Body> {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  readonly body: Body;
}

/** What refusals look like. */
export interface Refusal {
  readonly msg: string;
  readonly kind: string;
  readonly data: object;
}

export class ConsoleClient {
  readonly #dir: string;

  /** Of the repository in `dir`. */
  constructor(dir: string) {
    this.#dir = dir;
  }

  /** A repository of before there was a console has the default one until that is taken. */
  get port(): number {
    return JSON.parse(readFileSync(join(this.#dir, 'config.json'), 'utf8')).console?.port ?? 9899;
  }

  get pidFile(): string {
    return join(this.#dir, 'console/console.pid');
  }

  get pid(): number {
    const pid = runningPid(this.pidFile);
    if (pid === null) throw new Error('the console is not running');
    return pid;
  }

  /** `path` and `headers` go out exactly as they are; a body is sent as JSON. */
  ask<Body = Refusal>(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answer<Body>> {
    return new Promise((resolve, reject) => {
      const sent = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
      const asked = request({ host: '127.0.0.1', port: this.port, method, path, headers, agent: false });
      asked.on('error', reject);
      asked.on('response', async (response) => {
        let text = '';
        for await (const part of response.setEncoding('utf8')) text += part;
        const isJson = response.headers['content-type']?.startsWith('application/json');
        resolve({
          status: response.statusCode!,
          headers: response.headers,
          text,
          body: (isJson ? JSON.parse(text) : null) as Body,
        });
      });
      asked.end(sent);
    });
  }

  /** The body of an answer that must be of `status`. */
  async ok<Body>(method: string, path: string, body?: unknown, status = 200): Promise<Body> {
    const answer = await this.ask<Body>(method, path, body);
    if (answer.status !== status) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
    return answer.body;
  }
}
