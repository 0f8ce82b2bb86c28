/** The flags of `endpoint create` and `endpoint start` about how its Postgres port is reached. */
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import { readTlsFiles } from '../compute/tls-identity.ts';
import { type Endpoint, type EndpointListening, listeningOf, writeEndpoint } from '../control-plane/endpoints.ts';
import { localhost, type Repository } from '../control-plane/repository.ts';

export interface ListeningOptions {
  readonly host?: string;
  readonly auth?: EndpointListening['auth'];
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly requireTls?: boolean;
}

export function addListeningOptions(command: Command): Command {
  return command
    .option('--host <address>', 'where its Postgres port listens (default: 127.0.0.1)')
    .addOption(
      new Option(
        '--auth <method>',
        'passwords, or nothing (default: passwords after init --auth or with --host)',
      ).choices(['scram-sha-256', 'trust']),
    )
    .option('--tls-cert <file>', 'certificate in PEM form, with its chain: clients may encrypt')
    .option('--tls-key <file>', 'its private key')
    .option('--require-tls', 'clients have to encrypt');
}

/** What the flags say, over what was there. Throws `invalid` for what does not go together, or cannot be read. */
export function listeningFrom(
  options: ListeningOptions,
  before: Partial<EndpointListening>,
): Partial<EndpointListening> {
  const { host, auth } = options;
  const tls = tlsFrom(options, before.tls ?? null);
  return { ...before, ...(host !== undefined && { host }), ...(auth !== undefined && { auth }), tls };
}

/** Changes what an endpoint that is there is told anew. */
export function updateListening(repository: Repository, endpoint: Endpoint, options: ListeningOptions): Endpoint {
  const { host, auth, tls } = endpoint.config;
  const config = { ...endpoint.config, ...listeningOf(repository, listeningFrom(options, { host, auth, tls })) };
  const changed = { ...endpoint, config };
  if (JSON.stringify(config) !== JSON.stringify(endpoint.config)) writeEndpoint(changed);
  return changed;
}

function tlsFrom(options: ListeningOptions, before: EndpointListening['tls']): EndpointListening['tls'] {
  const { tlsCert, tlsKey, requireTls } = options;
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    throw new PageliteError('invalid', '--tls-cert and --tls-key go together');
  }
  const files = tlsCert !== undefined ? { certPath: resolve(tlsCert), keyPath: resolve(tlsKey!) } : before;
  if (files === null) {
    if (requireTls) throw new PageliteError('invalid', '--require-tls needs --tls-cert and --tls-key');
    return null;
  }
  readTlsFiles(files);
  const { certPath, keyPath } = files;
  return { certPath, keyPath, required: requireTls ?? before?.required ?? false };
}

/** For people: where to connect from this machine. */
export function connectionString({ config }: Endpoint, pgPort: number): string {
  const host = config.host === '0.0.0.0' || config.host === '::' ? localhost : config.host;
  const query = config.tls?.required ? '?sslmode=require' : '';
  return `postgresql://cloud_admin@${host.includes(':') ? `[${host}]` : host}:${pgPort}/postgres${query}`;
}
