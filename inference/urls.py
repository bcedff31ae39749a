"""Paths of inference."""

from django.urls import path

from inference.api.batches import BatchCancel, Batches, OneBatch
from inference.api.chat import ChatCompletions
from inference.api.completions import Completions
from inference.api.embeddings import Embeddings, PlainEmbeddings, Similarity
from inference.api.estimates import Estimates
from inference.api.files import FileContent, Files, OneFile
from inference.api.infer import Infer, InferStream
from inference.api.infer_batch import InferBatch, InferBatchCancel, OneInferBatch
from inference.api.models import Catalog, ModelInfo, Models, OneModel
from inference.api.requests import OneRequest, RequestCancel, RequestStream

openai = [
    path("chat/completions", ChatCompletions.as_view()),
    path("completions", Completions.as_view()),
    path("embeddings", Embeddings.as_view()),
    path("files", Files.as_view()),
    path("files/<str:name>", OneFile.as_view()),
    path("files/<str:name>/content", FileContent.as_view()),
    path("batches", Batches.as_view()),
    path("batches/<str:name>", OneBatch.as_view()),
    path("batches/<str:name>/cancel", BatchCancel.as_view()),
    path("models", Models.as_view()),
    path("models/<str:name>", OneModel.as_view()),
]
api = [
    path("infer", Infer.as_view()),
    path("infer/stream", InferStream.as_view()),
    path("infer/batch", InferBatch.as_view()),
    path("infer/batch/<str:name>", OneInferBatch.as_view()),
    path("infer/batch/<str:name>/cancel", InferBatchCancel.as_view()),
    path("embeddings", PlainEmbeddings.as_view()),
    path("similarity", Similarity.as_view()),
    path("estimates", Estimates.as_view()),
    path("models", Catalog.as_view()),
    path("model/info", ModelInfo.as_view()),
    path("requests/<uuid:identifier>", OneRequest.as_view()),
    path("requests/<uuid:identifier>/stream", RequestStream.as_view()),
    path("requests/<uuid:identifier>/cancel", RequestCancel.as_view()),
]
